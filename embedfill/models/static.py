"""wordllama-256: the mean of fixed token vectors. Reads the weights of the wordllama wheel with numpy, not its code.

A text without any token gets the first axis as its vector, as `models.base.normalise` says.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray

from embedfill.models.base import Tokenizer, Vectors, normalise
from embedfill.models.files import checked_file
from embedfill.models.inputs import token_ids
from embedfill.models.tokenizers import load_file

NAME = "wordllama-256"
SHA256 = "64b47a2dc493cb8e85944076601189739852d7b64e0e1eedcb1937a251cd9fd5"
_BLOCK_TOKENS = 1024  # gathered at once: 1 MB of float32 stays in a core's own cache


class StaticModel:
    """Runs at the speed of its tokenizer. Quality is about that of BM25: for tests and for huge runs."""

    name = NAME
    dimensions = 256
    max_tokens = 2048
    shorter_dimensions: tuple[int, ...] = (64, 128)

    def __init__(self) -> None:
        self._tokenizer = load_file(NAME)
        self.tokenizer: Tokenizer = self._tokenizer
        path = checked_file("wordllama", "weights/l2_supercat_256.safetensors", SHA256)
        self._table = read_tensor(path, "embedding.weight").astype(np.float32)

    def embed(self, inputs: Sequence[str | Sequence[int]]) -> Vectors:
        texts = token_ids(self._tokenizer, inputs, self.max_tokens)
        sums = np.zeros((len(texts), self.dimensions), np.float32)
        for first, last in _blocks([len(ids) for ids in texts]):
            self._sum(texts[first:last], sums[first:last])
        return normalise(sums)  # the mean and the sum have one direction

    def _sum(self, texts: list[Sequence[int]], out: Vectors) -> None:
        """Sums of the token vectors of each text into `out`; rows without tokens stay as they are."""
        lengths = np.array([len(ids) for ids in texts], np.int64)
        filled = lengths > 0
        if not filled.any():
            return
        flat = np.fromiter(chain.from_iterable(texts), np.int64, int(lengths.sum()))
        np.clip(flat, 0, len(self._table) - 1, out=flat)
        starts = (np.cumsum(lengths) - lengths)[filled]
        out[filled] = np.add.reduceat(self._table.take(flat, axis=0), starts, axis=0)


def read_tensor(path: Path, name: str) -> NDArray[np.float16]:
    """A float16 tensor of a safetensors file, memory-mapped, read-only."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        entry = orjson.loads(file.read(size))[name]
    begin = 8 + size + entry["data_offsets"][0]
    return np.memmap(path, np.float16, "r", offset=begin, shape=tuple(entry["shape"]))


def _blocks(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Runs of texts, as (first, last + 1), of about as many tokens as may be gathered at once."""
    first, held = 0, 0
    for row, length in enumerate(lengths):
        if held and held + length > _BLOCK_TOKENS:
            yield first, row
            first, held = row, 0
        held += length
    if first < len(lengths):
        yield first, len(lengths)
