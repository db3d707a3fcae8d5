"""Which rows train an index and which ones ask the questions: drawn by a hash of the row's id, in one streaming pass.

The draw does not depend on the order of rows, and no row is in two of the three samples. Zero vectors ask nothing.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedfill.ids import IdArray
from embedfill.index.plan import IndexPlan
from embedfill.index.source import Block, Vectors

MEASURE_QUERIES = 1_000
TUNE_QUERIES = 500
POINTS_PER_LIST = 50

_FULL = 2.0**64


@dataclass(frozen=True)
class Queries:
    """Rows that ask: their numbers (q,), and their unit vectors (q, d)."""

    rows: NDArray[np.int64]
    vectors: Vectors

    def __len__(self) -> int:
        return len(self.rows)


class _Drawn:
    """Rows whose hash falls into `[low, high)`, up to `capacity`; memory is taken once, so nothing is copied at the end."""

    def __init__(self, low: float, high: float, rows: int, dimensions: int) -> None:
        expected = rows * (high - low)
        capacity = min(rows, math.ceil(expected + 6 * math.sqrt(expected) + 16)) if high > low else 0
        self._low, self._high, self._count = low, high, 0
        self._rows = np.empty(capacity, np.int64)
        self._vectors = np.empty((capacity, dimensions), np.float32)

    def take(self, block: Block, where: NDArray[np.float64]) -> None:
        picked = np.flatnonzero((where >= self._low) & (where < self._high))[: len(self._rows) - self._count]
        end = self._count + len(picked)
        self._rows[self._count : end] = block.start + picked
        self._vectors[self._count : end] = block.vectors[picked]
        self._count = end

    def vectors(self) -> Vectors:
        return self._vectors[: self._count]

    def queries(self) -> Queries:
        vectors = self.vectors()
        asks = vectors.any(axis=1)
        return Queries(self._rows[: self._count][asks], vectors[asks])


class Sampler:
    """Takes the blocks of a source one by one, and keeps the queries and the training rows of a plan."""

    def __init__(self, plan: IndexPlan) -> None:
        tune = TUNE_QUERIES if plan.lists else 0
        train = POINTS_PER_LIST * plan.lists
        rows = max(plan.rows, 1)
        bounds = [min(count / rows, 1.0) for count in np.cumsum([0, MEASURE_QUERIES, tune, train])]
        self._drawn = [_Drawn(low, high, plan.rows, plan.dimensions) for low, high in itertools.pairwise(bounds)]

    def take(self, block: Block) -> None:
        where = place(block.ids)
        for drawn in self._drawn:
            drawn.take(block, where)

    @property
    def measuring(self) -> Queries:
        return self._drawn[0].queries()

    @property
    def tuning(self) -> Queries:
        return self._drawn[1].queries()

    @property
    def training(self) -> Vectors:
        return self._drawn[2].vectors()


def place(ids: IdArray) -> NDArray[np.float64]:
    """A number in [0, 1) for each id, evenly spread: both halves through the finaliser of SplitMix64 (Steele, 2014)."""
    halves = np.ascontiguousarray(ids).view(np.uint64).reshape(-1, 2)
    return np.minimum(_mix(_mix(halves[:, 0]) ^ halves[:, 1]) / _FULL, np.nextafter(1.0, 0.0))


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    mixed = value + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
