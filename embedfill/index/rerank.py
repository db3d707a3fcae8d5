"""The float16 vectors of all rows in one raw file, little-endian, row by row: written in order, read anywhere.

A search maps the file; a build reads single rows instead, since mapped pages count as its memory (and come in by the
megabyte where the page cache is in large pages). Holds no row in memory for longer than it is asked for.
"""

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedfill.errors import SearchIndexError
from embedfill.index.source import BLOCK_ROWS, Vectors

RERANK_FILE = "rerank.f16"

_SHIFT = 13
_EXTENDED_SIGN = 0x70000000  # bits that widening a negative int16 sets and that are not the float's
_BIAS = np.float32(2.0**112)

Half = NDArray[np.float16]


class RerankFile:
    """`rows` vectors of `dimensions`. Raises SearchIndexError where the file's size does not fit."""

    def __init__(self, path: Path, dimensions: int, mapped: bool = True) -> None:
        self._path = path
        self._dimensions = dimensions
        self.rows, rest = divmod(path.stat().st_size, 2 * dimensions)
        if rest:
            raise SearchIndexError(f"{path}: does not end with a whole row of {dimensions} float16", "build it again")
        self._mapped = self._map() if mapped and self.rows else None

    def take(self, rows: NDArray[np.int64]) -> Vectors:
        """The vectors of some rows (n,), as float32 (n, d); any row in place of a negative number."""
        if self._mapped is not None:
            return widen(self._mapped.take(rows, axis=0))
        found = np.empty((len(rows), self._dimensions), "<f2")
        with self._path.open("rb") as file:
            for place, row in enumerate(rows.tolist()):
                os.preadv(file.fileno(), [found[place].data], max(row, 0) * found.strides[0])
        return widen(found)

    def blocks(self) -> Iterator[tuple[int, Vectors]]:
        """All rows in order: the number of the first of each block, and its vectors as float32."""
        with self._path.open("rb") as file:
            for start in range(0, self.rows, BLOCK_ROWS):
                yield (
                    start,
                    widen(np.fromfile(file, "<f2", BLOCK_ROWS * self._dimensions)).reshape(-1, self._dimensions),
                )

    def _map(self) -> Half:
        with self._path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if hasattr(mapped, "madvise"):
            mapped.madvise(mmap.MADV_RANDOM)  # rows lie anywhere: reading ahead would read the whole file
        return np.frombuffer(mapped, "<f2").reshape(-1, self._dimensions)


def widen(half: Half) -> Vectors:
    """float16 to float32, finite values only, several times faster than numpy's conversion of today.

    A float16 moved 13 bits up has its sign, exponent and mantissa where a float32 has them, but for the exponent's bias
    of 15 instead of 127: one multiplication by 2^112 mends it, exactly, also for subnormal numbers.
    """
    bits = half.view("<i2").astype(np.int32)
    bits <<= _SHIFT
    bits &= ~_EXTENDED_SIGN
    result = bits.view(np.float32)
    result *= _BIAS
    return result
