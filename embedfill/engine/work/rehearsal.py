"""Stand-ins for models that are paid for: their dimensions, limits and token counts, and vectors that mean nothing.

A run can be rehearsed with them before it costs anything. Nothing is sent anywhere.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from zlib import crc32

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from embedfill.errors import ConfigError
from embedfill.models.base import Tokenizer, Vectors, normalise
from embedfill.models.known import KNOWN, ModelInfo
from embedfill.models.tokenizers import BPE_NAMES, load

NAMES = tuple(info.name for info in KNOWN.values() if not info.local and info.tokenizer in BPE_NAMES)
_PLACES = 1 << 16  # where a vector may begin in the noise; two of them make it, so 2**32 different ones


class Rehearsal:
    """A unit vector is the same for the same input, everywhere and always, and has nothing to do with what it says."""

    def __init__(self, info: ModelInfo) -> None:
        self.name = info.name
        self.dimensions = info.dimensions
        self.max_tokens = info.max_tokens
        self.shorter_dimensions: Sequence[int] = range(1, info.dimensions) if info.shorter is None else info.shorter
        self.tokenizer: Tokenizer = load(info.tokenizer)
        self._noise = sliding_window_view(_noise(_PLACES + info.dimensions), info.dimensions)

    def embed(self, inputs: Sequence[str | Sequence[int]]) -> Vectors:
        places = np.fromiter(map(_digest, inputs), np.uint32, len(inputs))
        vectors = self._noise[places % _PLACES] - self._noise[places // _PLACES]
        return normalise(vectors)


def maker(name: str) -> Callable[[], Rehearsal]:
    """What makes the stand-in for this model. Raises ConfigError where too little is known of it."""
    if name not in NAMES:
        raise ConfigError("engine.rehearse", name, f"what can be stood in for: {', '.join(NAMES)}")
    return partial(Rehearsal, KNOWN[name])


def _digest(item: str | Sequence[int]) -> int:
    data = item.encode("utf-8", "surrogatepass") if isinstance(item, str) else np.asarray(item, "<i8").tobytes()
    return crc32(data)


@lru_cache(maxsize=2)
def _noise(size: int) -> NDArray[np.float32]:
    """The same numbers in every process: a bit generator's stream is fixed, numpy's distributions are not."""
    bits = np.random.PCG64(1).random_raw(size)
    return ((bits >> np.uint64(40)).astype(np.float32) / np.float32(1 << 23)) - np.float32(1)
