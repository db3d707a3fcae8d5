import numpy as np
import pytest

from embedfill.index.nearest import Nearest
from embedfill.index.ranker import Ranked
from embedfill.index.sample import Queries
from embedfill.index.truth import Truth, TruthFinder, measure, without_own
from tests.index_fixtures import brute_force, clustered


@pytest.mark.parametrize("block", [1, 7, 64, 1_000])
def test_nearest_equals_brute_force_for_any_blocks(block: int) -> None:
    vectors = clustered(300, 16)
    best = Nearest(vectors[:20], 25)
    for start in range(0, 300, block):
        best.push(start, vectors[start : start + block])
    assert best.rows.tolist() == brute_force(vectors, vectors[:20], 25).tolist()


def test_without_own() -> None:
    found = np.array([[4, 1, 2], [1, 2, 3], [9, 8, 1]])
    assert without_own(found, np.array([4, 7, 1])).tolist() == [[1, 2], [1, 2], [9, 8]]
    assert without_own(np.empty((2, 0), np.int64), np.array([1, 2])).shape == (2, 0)


class _Fixed:
    """A ranker that always finds the same rows; scores are those of the vectors."""

    def __init__(self, vectors: np.ndarray, found: np.ndarray) -> None:
        self.rows, self.dimensions = vectors.shape
        self._vectors, self._found = vectors, found

    def nearest(self, queries: np.ndarray, count: int) -> Ranked:
        return self._found, self.score(queries, self._found)

    exact = nearest

    def score(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        scores = np.einsum("qmd,qd->qm", self._vectors[rows], queries)
        return np.where(rows < 0, -np.inf, scores).astype(np.float32)


def _truth(vectors: np.ndarray, rows: np.ndarray) -> Truth:
    finder = TruthFinder(Queries(rows, vectors[rows]))
    finder.push(0, vectors)
    return finder.truth()


def test_measure_counts_what_is_missed_and_not_the_asking_row() -> None:
    vectors = clustered(500, 16)
    asking = np.arange(30)
    exact = brute_force(vectors, vectors[:30], 500)
    truth = _truth(vectors, asking)
    assert truth.rows[:, :10].tolist() == exact[:, 1:11].tolist()
    assert measure(_Fixed(vectors, exact[:, :11]), truth) == 1.0
    missed = exact[:, :11].copy()
    missed[:, 1:4] = exact[:, 200:203]  # three of ten
    assert measure(_Fixed(vectors, missed), truth) == pytest.approx(0.7)
    missed[:15, 4:] = -1
    assert measure(_Fixed(vectors, missed), truth) == pytest.approx((0.7 + 0.0) / 2)


def test_any_of_equal_vectors_is_right() -> None:
    vectors = np.repeat(clustered(4, 8), 30, axis=0)
    asking = np.array([0, 31])
    others = np.stack([np.arange(15, 26), np.arange(45, 56)])
    truth = _truth(vectors, asking)
    assert measure(_Fixed(vectors, others), truth) == 1.0
    assert measure(_Fixed(vectors, others[::-1].copy()), truth) == 0.0
    twenty = np.stack([np.arange(1, 31), np.arange(32, 62)])  # exact search kept these among the ties
    assert truth.recall_of_candidates(twenty, [5, 10, 30]) == [0.5, 1.0, 1.0]


def test_fewer_rows_than_ten() -> None:
    vectors = clustered(4, 8)
    truth = _truth(vectors, np.arange(4))
    assert truth.k == 3
    assert measure(_Fixed(vectors, brute_force(vectors, vectors, 4)), truth) == 1.0
    assert measure(_Fixed(vectors[:1], np.zeros((1, 1), np.int64)), _truth(vectors[:1], np.arange(1))) == 1.0
