"""Where vectors come from: a stream of (ids, vectors) that can be read several times, and its even, unit-length blocks.

Does not know packs or stores. Row numbers are positions in the stream, from 0.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedfill.errors import SearchIndexError
from embedfill.ids import IdArray

Vectors = NDArray[np.float32]
Batch = tuple[IdArray, Vectors]

BLOCK_ROWS = 8192


@dataclass(frozen=True)
class VectorSource:
    """`batches()` streams the same distinct rows in the same order at each call: ids S16 (n,), vectors float32 (n, d)."""

    batches: Callable[[], Iterator[Batch]]
    rows: int
    dimensions: int


@dataclass(frozen=True)
class Block:
    """`BLOCK_ROWS` rows (the last block may be shorter): the number of the first, their ids, their unit vectors."""

    start: int
    ids: IdArray
    vectors: Vectors


def blocks(source: VectorSource) -> Iterator[Block]:
    """The rows of a source in blocks of one size, whatever its batches are, so that equal streams build equal indexes.

    Vectors are scaled to length 1; a zero vector stays zero. Raises SearchIndexError: NaN or infinity, a wrong shape,
    or more or fewer rows than announced.
    """
    start = 0
    for ids, vectors in _even(source):
        yield Block(start, ids, _unit_rows(vectors, start))
        start += len(ids)
    if start != source.rows:
        raise SearchIndexError(f"{source.rows:,} vectors were announced and {start:,} came", "run it again")


def normalise(vectors: Vectors) -> Vectors:
    """Rows scaled to length 1, as a new float32 array; zero rows stay zero, rows with NaN or infinity become NaN."""
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    odd = ~((norms > 1e-12) & (norms < 1e12))  # squares may have left float32's range: count these in float64
    result: Vectors = np.divide(vectors, np.where(odd, 1, norms)[:, None], dtype=np.float32)
    if odd.any():
        wide = vectors[odd].astype(np.float64)
        lengths = np.linalg.norm(wide, axis=1, keepdims=True)
        lengths[~np.isfinite(lengths)] = np.nan
        result[odd] = wide / np.where(lengths == 0, 1, lengths)
    return result


def _unit_rows(vectors: Vectors, start: int) -> Vectors:
    unit = normalise(vectors)
    bad = np.flatnonzero(~np.isfinite(unit).all(axis=1))
    if len(bad):
        raise SearchIndexError(f"row {start + int(bad[0])}: its vector holds NaN or infinity")
    return unit


def _even(source: VectorSource) -> Iterator[Batch]:
    """The batches joined and cut to `BLOCK_ROWS`."""
    waiting: list[Batch] = []
    count = 0
    for ids, vectors in source.batches():
        if vectors.shape != (len(ids), source.dimensions):
            expected = (len(ids), source.dimensions)
            raise SearchIndexError(f"a batch of vectors has shape {vectors.shape}, expected {expected}")
        for at in range(0, len(ids), BLOCK_ROWS):
            waiting.append((ids[at : at + BLOCK_ROWS], vectors[at : at + BLOCK_ROWS]))
            count += len(waiting[-1][0])
            while count >= BLOCK_ROWS:
                ready, waiting = _cut(waiting)
                count -= len(ready[0])
                yield ready
    if count:
        yield _join(waiting)


def _cut(waiting: list[Batch]) -> tuple[Batch, list[Batch]]:
    """The first `BLOCK_ROWS` rows, and what is left."""
    ids, vectors = _join(waiting)
    rest = [(ids[BLOCK_ROWS:], vectors[BLOCK_ROWS:])] if len(ids) > BLOCK_ROWS else []
    return (ids[:BLOCK_ROWS], vectors[:BLOCK_ROWS]), rest


def _join(parts: list[Batch]) -> Batch:
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([ids for ids, _ in parts]), np.concatenate([vectors for _, vectors in parts])
