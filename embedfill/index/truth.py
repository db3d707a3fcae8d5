"""The exact nearest rows of queries that are rows themselves, found while all rows stream by; and recall against them.

The asking row is taken out of both lists. A found row is right when it is as near as the tenth of the exact ones: of rows
with equal vectors any will do.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedfill.index.nearest import Nearest, Rows, Scores
from embedfill.index.ranker import Ranker
from embedfill.index.sample import Queries
from embedfill.index.source import Vectors

K = 10

_TIES = 22  # exact rows kept beyond the tenth and the query's own: they may be as near as the tenth
_SAME = 1e-6  # scores that differ by less are equal: float32 sums of up to thousands of terms


@dataclass(frozen=True)
class Truth:
    """Queries, and their exact nearest rows (q, m) with scores, best first, without the asking row. `k` is 10, or less."""

    queries: Queries
    rows: Rows
    scores: Scores

    @property
    def k(self) -> int:
        return min(K, int(self.rows.shape[1]))

    def recall_of_candidates(self, rows: Rows, depths: list[int]) -> list[float]:
        """How many of the k right rows are among the first `depth` candidates (q, c), for each depth."""
        stride = int(max(rows.max(), self.rows.max())) + 2  # one number space for each query
        offset = np.arange(len(rows))[:, None] * stride
        right = (self.rows + offset)[self.scores >= self.scores[:, self.k - 1 : self.k] - _SAME]
        hit = np.isin(rows + offset, right) & (rows >= 0)
        return [float(np.minimum(hit[:, :depth].sum(axis=1), self.k).mean() / self.k) for depth in depths]


class TruthFinder:
    """Takes all rows, block by block, and knows the truth of its queries then."""

    def __init__(self, queries: Queries) -> None:
        self._queries = queries
        self._nearest = Nearest(queries.vectors, 1 + K + _TIES)

    def push(self, start: int, vectors: Vectors) -> None:
        self._nearest.push(start, vectors)

    def truth(self) -> Truth:
        others = _others(self._nearest.rows, self._queries.rows)
        rows = np.take_along_axis(self._nearest.rows, others, axis=1)
        return Truth(self._queries, rows, np.take_along_axis(self._nearest.scores, others, axis=1))


def measure(ranker: Ranker, truth: Truth) -> float:
    """Recall@10 of a ranker with the settings it has; 1.0 where nothing can be asked."""
    if not truth.rows.size:
        return 1.0
    vectors = truth.queries.vectors
    found, scores = ranker.nearest(vectors, truth.k + 1)
    others = _others(found[:, : truth.k + 1], truth.queries.rows)
    limit = ranker.score(vectors, truth.rows[:, : truth.k]).min(axis=1, keepdims=True)  # by the same stored vectors
    return float((np.take_along_axis(scores, others, axis=1) >= limit - _SAME).sum(axis=1).mean() / truth.k)


def without_own(found: Rows, own: Rows) -> Rows:
    """Each line of `found` (q, m) without the query's own row, or without its last where that was not found: (q, m - 1)."""
    return np.take_along_axis(found, _others(found, own), axis=1)


def _others(found: Rows, own: Rows) -> NDArray[np.int64]:
    """Columns of `found` that are not the query's own row, one fewer than there are."""
    if not found.size:
        return np.empty(found.shape, np.int64)
    other = found != own[:, None]
    other[other.all(axis=1), -1] = False
    return np.argsort(~other, axis=1, kind="stable")[:, :-1]
