"""Query vectors to hits: ranks rows, and finds the places where their texts stand. Embeds nothing, and changes nothing.

A row whose text stands in several places gives several hits of one score. Equal scores (rounded) are sorted by document
id, then by place; among more than `TIED_ROWS` rows of one score an arbitrary but fixed selection is looked at.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedfill.errors import SearchIndexError, UsageError
from embedfill.index import faiss_
from embedfill.index.nearest import Rows, Scores
from embedfill.index.places import Places
from embedfill.index.ranker import Ranked, Ranker, open_ranker
from embedfill.index.source import Vectors, normalise
from embedfill.records import Hit, IndexManifest

TIED_ROWS = 4_096
DECIMALS = 6  # float16 vectors give the cosine to about 2e-5

_SPARE = 6  # rows asked for beyond k at first: some may have no place, and a tie may stand at the end
_GROWTH = 4
_AGAIN = "build the index again"

Rank = Callable[[Vectors, int], Ranked]


@dataclass(frozen=True)
class _Found:
    """Places of one query, best first: positions in the place file, their scores; `settled`: more rows change nothing."""

    positions: NDArray[np.signedinteger[Any]]
    scores: Scores
    settled: bool


class Searcher:
    """A built index with its places, ready to be asked; safe in several threads, not across a fork."""

    def __init__(self, ranker: Ranker, places: Places, threads: int = 0) -> None:
        self._ranker = ranker
        self._places = places
        self._threads = threads

    @classmethod
    def open(cls, manifest: IndexManifest, files: Mapping[str, Path], threads: int = 0) -> "Searcher":
        """Opens the manifest's files. `threads` 0: all cores that are ours. Raises SearchIndexError naming a file that is
        missing, damaged, or of another index."""
        parameters = manifest.parameters
        ranker = open_ranker(files, int(parameters.get("nprobe", 1)), int(parameters.get("depth", 1)))
        places = Places(files)
        found = {"vectors": ranker.rows, "rows with places": places.rows}
        for what, count in found.items():
            if count != manifest.rows:
                raise SearchIndexError(f"the index has {count:,} {what}, its manifest says {manifest.rows:,}", _AGAIN)
        if ranker.dimensions != manifest.dimensions:
            said = f"its manifest says {manifest.dimensions}"
            raise SearchIndexError(f"the index has {ranker.dimensions} dimensions, {said}", _AGAIN)
        return cls(ranker, places, threads)

    def search(self, vectors: Vectors, k: int, by_document: bool = False) -> list[list[Hit]]:
        """The k best hits of each query vector (q, d), or all there are; `by_document`: the best one of each document.

        Raises UsageError: k below 1, wrong dimensions, a query that is not finite or all zeros.
        """
        return self._search(vectors, k, by_document, self._ranker.nearest)

    def search_exact(self, vectors: Vectors, k: int, by_document: bool = False) -> list[list[Hit]]:
        """The same over all rows, however long it takes: what an index is measured by."""
        return self._search(vectors, k, by_document, self._ranker.exact)

    def _search(self, vectors: Vectors, k: int, by_document: bool, rank: Rank) -> list[list[Hit]]:
        if k < 1:
            raise UsageError(f"k = {k}: ask for at least one hit")
        queries = self._queries(vectors)
        faiss_.use_threads(self._threads)
        found = self._find(queries, k, by_document, rank)
        return [self._hits(one) for one in found]

    def _queries(self, vectors: Vectors) -> Vectors:
        dimensions = self._ranker.dimensions
        if vectors.ndim != 2 or vectors.shape[1] != dimensions:
            raise UsageError(f"query vectors have shape {vectors.shape}, expected (queries, {dimensions})")
        unit = normalise(np.ascontiguousarray(vectors, np.float32))
        for number, vector in enumerate(unit):
            if not np.isfinite(vector).all():
                raise UsageError(f"query {number}: its vector holds NaN or infinity")
            if not vector.any():
                raise UsageError(f"query {number}: its vector is all zeros, near to nothing", "word it differently")
        return unit

    def _find(self, queries: Vectors, k: int, by_document: bool, rank: Rank) -> list[_Found]:
        """Asks for more and more rows, in the end for all by exact search, until every query is settled."""
        k = min(k, self._places.documents if by_document else len(self._places))
        found: dict[int, _Found] = {}
        count, waiting = k + _SPARE, np.arange(len(queries))
        while len(waiting):
            look = self._ranker.exact if count > TIED_ROWS or count >= self._ranker.rows else rank
            ranked = look(queries[waiting], min(count, self._ranker.rows))
            for number, rows, scores in zip(waiting.tolist(), *ranked, strict=True):
                one = self._places_of(rows, np.round(scores, DECIMALS), k, by_document)
                enough = len(one.positions) == k and count >= TIED_ROWS
                if one.settled or enough or count >= self._ranker.rows:
                    found[number] = one
            waiting = np.array([number for number in waiting.tolist() if number not in found], np.int64)
            count *= _GROWTH
        return [found[number] for number in range(len(queries))]

    def _places_of(self, rows: Rows, scores: Scores, k: int, by_document: bool) -> _Found:
        """The k best places of rows that are sorted by score. Settled: the last row scores less than the last place."""
        real = rows >= 0
        rows, scores = rows[real], scores[real]
        which, positions, ranks = self._places.of_rows(rows)
        order = np.lexsort((positions, ranks, -scores[which]))
        if by_document:
            order = order[np.sort(np.unique(ranks[order], return_index=True)[1])]
        order = order[:k]
        best = scores[which[order]]
        settled = len(best) == k and (k == 0 or bool(best[-1] > scores[-1]))
        return _Found(positions[order], best, settled)

    def _hits(self, found: _Found) -> list[Hit]:
        places = self._places.read(found.positions.tolist())
        return [
            Hit(rank, _cosine(score), one.document_id, one.ordinal, one.start, one.end, one.text, one.metadata)
            for rank, (one, score) in enumerate(zip(places, found.scores.tolist(), strict=True), start=1)
        ]


def _cosine(score: float) -> float:
    """Rounded, and never over 1: float16 vectors are not quite of length 1."""
    return max(-1.0, min(1.0, round(score, DECIMALS))) + 0.0  # no negative zero
