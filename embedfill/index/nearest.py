"""The exact nearest rows of some queries, found while all vectors stream by. Keeps the best so far, never the vectors."""

import numpy as np
from numpy.typing import NDArray

from embedfill.index.faiss_ import faiss
from embedfill.index.source import Vectors

Rows = NDArray[np.int64]
Scores = NDArray[np.float32]


class Nearest:
    """For each of q queries the `count` rows of the highest inner product among those pushed."""

    def __init__(self, queries: Vectors, count: int) -> None:
        self._queries = np.ascontiguousarray(queries)
        self._count = count
        self.rows: Rows = np.empty((len(queries), 0), np.int64)
        self.scores: Scores = np.empty((len(queries), 0), np.float32)

    def push(self, start: int, vectors: Vectors) -> None:
        """Looks at the rows `start`, `start + 1`, …; vectors (n, d)."""
        if not len(vectors) or not len(self._queries) or not self._count:
            return
        best = min(self._count, len(vectors))
        scores, rows = faiss.knn(self._queries, vectors, best, metric=faiss.METRIC_INNER_PRODUCT)
        self.scores = np.concatenate([self.scores, scores], axis=1)
        self.rows = np.concatenate([self.rows, rows + start], axis=1)
        order = np.argsort(-self.scores, axis=1, kind="stable")[:, : self._count]
        self.scores = np.take_along_axis(self.scores, order, axis=1)
        self.rows = np.take_along_axis(self.rows, order, axis=1)
