"""A transformer that embeds texts: token ids to padded batches of like length, a forward pass, unit vectors.

The forward pass is given, by whatever runtime: nothing of ONNX Runtime or torch is known here.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from embedfill.models.base import Vectors, normalise
from embedfill.models.inputs import token_ids
from embedfill.models.tokenizers import FileTokenizer

Ids = NDArray[np.int64]
# Padded ids and the mask of what is no padding, both (texts, tokens), to one vector of each text, not normalised.
Forward = Callable[[Ids, Ids], Vectors]

CPU_TOKENS = 1024  # padded tokens of one forward pass: what lies in the caches; 8,192 are half as fast
GPU_TOKENS = 16_384
ALONE = 1  # each text in a pass of its own


class Encoder:
    """A `Model`. Its dimensions are those of a first forward pass, which also tells early that it works."""

    shorter_dimensions: tuple[int, ...] = ()

    def __init__(
        self,
        name: str,
        tokenizer: FileTokenizer,
        forward: Forward,
        max_tokens: int,
        pad: int = 0,
        padded_tokens: int = CPU_TOKENS,
        device: str = "cpu",
    ) -> None:
        self.name = name
        self.device = device
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self._forward = forward
        self._pad = pad
        self._padded_tokens = padded_tokens
        self.dimensions = int(forward(*self._padded([(pad,)])).shape[1])

    def embed(self, inputs: Sequence[str | Sequence[int]]) -> Vectors:
        special = self.tokenizer.special_tokens
        texts = token_ids(self.tokenizer, inputs, self.max_tokens - special)
        pooled = np.zeros((len(texts), self.dimensions), np.float32)
        lengths = [len(ids) + special for ids in texts]
        for rows in batches(lengths, self._padded_tokens):
            pooled[rows] = self._forward(*self._padded([texts[row] for row in rows]))
        return normalise(pooled)

    def _padded(self, texts: Sequence[Sequence[int]]) -> tuple[Ids, Ids]:
        """Token ids with special tokens, padded to the longest, and the mask of what is no padding."""
        prefix, suffix = self.tokenizer.prefix, self.tokenizer.suffix
        special = len(prefix) + len(suffix)
        shape = (len(texts), max(len(ids) for ids in texts) + special)
        ids, mask = np.full(shape, self._pad, np.int64), np.zeros(shape, np.int64)
        for row, text in enumerate(texts):
            length = len(text) + special
            ids[row, :length] = [*prefix, *text, *suffix]
            mask[row, :length] = 1
        return np.clip(ids, 0, self.tokenizer.vocabulary - 1, out=ids), mask


def batches(lengths: Sequence[int], padded_tokens: int) -> Iterator[list[int]]:
    """Row numbers in batches of like length, each within the budget of padded tokens; the longest first, so that the
    largest allocation comes first and is used again. A text without any token is in none."""
    rows: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        if not lengths[row]:
            break
        if rows and (len(rows) + 1) * lengths[rows[0]] > padded_tokens:
            yield rows
            rows = []
        rows.append(row)
    if rows:
        yield rows
