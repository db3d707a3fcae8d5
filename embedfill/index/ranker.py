"""Ranks the rows of an index for queries: exact (Flat), or in two stages (lists, then float16 vectors). Knows no texts.

Scores are computed in one way in every case, from the stored vectors, so that a row scores the same however it was found.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from embedfill.errors import SearchIndexError
from embedfill.index import faiss_
from embedfill.index.faiss_ import FaissIndex, faiss
from embedfill.index.nearest import Nearest, Rows, Scores
from embedfill.index.rerank import RERANK_FILE, RerankFile
from embedfill.index.source import Vectors

INDEX_FILE = "index.faiss"
TUNED_FOR = 16  # rows that a search for ten hits asks for: up to here nprobe and depth hold as tuned

_GATHER_BYTES = 1 << 20  # of float32 vectors at a time while candidates are scored: they stay in the core's cache

Ranked = tuple[Rows, Scores]


class Ranker(Protocol):
    """Row numbers and scores (q, m), best first; -1 and -inf where there is none. Queries are unit vectors (q, d)."""

    rows: int
    dimensions: int

    def nearest(self, queries: Vectors, count: int) -> Ranked:
        """At least `count` rows for each query, where the index finds so many."""
        ...

    def exact(self, queries: Vectors, count: int) -> Ranked:
        """The `count` nearest rows of all."""
        ...

    def score(self, queries: Vectors, rows: Rows) -> Scores:
        """The inner product of each query with its rows (q, m); -inf where a row is -1."""
        ...


class FlatRanker:
    """All vectors in memory, as float32."""

    def __init__(self, index: FaissIndex) -> None:
        self.rows: int = index.ntotal
        self.dimensions: int = index.d
        self._index = index
        self._ids = faiss.vector_to_array(index.id_map)
        self._vectors = _flat_vectors(index)

    def nearest(self, queries: Vectors, count: int) -> Ranked:
        if not self.rows or not len(queries):
            return _nothing(len(queries))
        _, rows = self._index.search(queries, min(count, self.rows))
        return ordered(rows, self.score(queries, rows))

    exact = nearest

    def score(self, queries: Vectors, rows: Rows) -> Scores:
        return _scores(self._take, queries, rows)

    def _take(self, rows: NDArray[np.int64]) -> Vectors:
        places = np.searchsorted(self._ids, rows)  # ids ascend, also after some were removed
        return self._vectors.take(places, axis=0)


class ListRanker:
    """Inverted lists give candidates, the float16 file scores them; only the lists' codes stay in memory."""

    def __init__(self, index: FaissIndex, rerank: RerankFile, nprobe: int, depth: int) -> None:
        self.rows: int = index.ntotal
        self.dimensions: int = index.d
        self.lists: int = index.nlist
        self.nprobe = nprobe
        self.depth = depth
        self._index = index
        self._rerank = rerank

    def nearest(self, queries: Vectors, count: int) -> Ranked:
        """More than `TUNED_FOR` rows take proportionally more candidates, from more lists."""
        if not len(queries):
            return _nothing(0)
        factor = max(1.0, count / TUNED_FOR)
        rows = self.candidates(queries, math.ceil(self.nprobe * factor), math.ceil(self.depth * factor))
        return ordered(rows, self.score(queries, rows))

    def candidates(self, queries: Vectors, nprobe: int, depth: int) -> Rows:
        """The first stage alone: `depth` rows for each query, in the order of their codes' scores; -1 where none."""
        parameters = faiss.IVFSearchParameters(nprobe=min(nprobe, self.lists))
        _, rows = self._index.search(queries, max(1, min(depth, self.rows)), params=parameters)
        return np.asarray(rows, np.int64)

    def exact(self, queries: Vectors, count: int) -> Ranked:
        """Reads the float16 file from its beginning to its end."""
        best = Nearest(queries, count)
        for start, vectors in self._rerank.blocks():
            best.push(start, vectors)
        return ordered(best.rows, self.score(queries, best.rows))

    def score(self, queries: Vectors, rows: Rows) -> Scores:
        return _scores(self._rerank.take, queries, rows)


def open_ranker(files: Mapping[str, Path], nprobe: int, depth: int) -> Ranker:
    """Opens the files of a built index. Raises SearchIndexError naming a file that is missing or damaged."""
    path = need(files, INDEX_FILE)
    index = faiss_.read(path)
    if isinstance(index, faiss.IndexIDMap2):
        return FlatRanker(index)
    if not isinstance(index, faiss.IndexIVF):
        raise SearchIndexError(f"{path}: holds an {type(index).__name__}, which this version does not search")
    rerank = RerankFile(need(files, RERANK_FILE), index.d)
    if rerank.rows < index.ntotal:  # rows that were removed from the lists may still be in the file
        expected = f"{index.ntotal:,} rows, as the index has"
        raise SearchIndexError(f"{files[RERANK_FILE]}: has {rerank.rows:,} rows, expected {expected}", "build it again")
    return ListRanker(index, rerank, nprobe, depth)


def need(files: Mapping[str, Path], name: str) -> Path:
    """The file of that name. Raises SearchIndexError."""
    path = files.get(name)
    if path is None:
        raise SearchIndexError(f"the index has no file {name}", "build the index again")
    if not path.is_file():
        raise SearchIndexError(f"{path}: the file is missing", "build the index again")
    return path


def ordered(rows: Rows, scores: Scores) -> Ranked:
    """Best score first; equal scores by row number, so that the order does not depend on how rows were found."""
    order = np.lexsort((rows, -scores), axis=1)
    return np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)


def _flat_vectors(index: FaissIndex) -> Vectors:
    """A view of the vectors (rows, d) that a Flat index holds."""
    if not index.ntotal:
        return np.empty((0, index.d), np.float32)
    inner = faiss.downcast_index(index.index)
    view: Vectors = faiss.rev_swig_ptr(inner.get_xb(), index.ntotal * index.d).reshape(-1, index.d)
    return view


def _scores(take: Callable[[NDArray[np.int64]], Vectors], queries: Vectors, rows: Rows) -> Scores:
    """Inner products of queries (q, d) with the vectors of their rows (q, m), a few queries at a time."""
    scores = np.empty(rows.shape, np.float32)
    step = max(1, _GATHER_BYTES // max(1, 4 * rows.shape[1] * queries.shape[1]))
    for at in range(0, len(rows), step):
        wanted = rows[at : at + step]
        found = take(wanted.ravel()).reshape(*wanted.shape, -1)
        scores[at : at + step] = np.matmul(found, queries[at : at + step, :, None])[:, :, 0]
    scores[rows < 0] = -np.inf
    return scores


def _nothing(queries: int) -> Ranked:
    return np.empty((queries, 0), np.int64), np.empty((queries, 0), np.float32)
