from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from embedfill import ids
from embedfill.errors import SearchIndexError, UsageError
from embedfill.index import search
from embedfill.index.build import build_index
from embedfill.index.places import write_places
from embedfill.index.search import Searcher
from embedfill.index.source import Vectors, VectorSource
from embedfill.records import Hit, IndexManifest
from tests.index_fixtures import brute_force, clustered, documents_batch, places_batch, row_ids, source

Places = list[tuple[int, int, int]]  # row, document, ordinal


def make(tmp_path: Path, vectors: Vectors, names: list[str], places: Places) -> tuple[IndexManifest, dict[str, Path]]:
    built = build_index(source(vectors), 0.95, 10**9, tmp_path, 2)
    texts = ids.tolist(row_ids(len(vectors)))
    rows = [(texts[row], document, ordinal, 0, 9, f"text {row}") for row, document, ordinal in places]
    metadata = [f'{{"name":"{name}"}}' for name in names]
    written = write_places(tmp_path, row_ids(len(vectors)), [documents_batch(names, metadata)], [places_batch(rows)])
    manifest = IndexManifest(
        built.kind, built.rows, built.dimensions, built.metric, built.recall_at_10, built.bytes, built.parameters, {}
    )
    return manifest, {**built.files, **written.files}


def searcher(tmp_path: Path, vectors: Vectors, names: list[str], places: Places) -> Searcher:
    return Searcher.open(*make(tmp_path, vectors, names, places), threads=2)


def plain(tmp_path: Path, vectors: Vectors) -> Searcher:
    """Each row stands once, in a document of its own."""
    count = len(vectors)
    return searcher(tmp_path, vectors, [f"d{n:05}" for n in range(count)], [(n, n, 0) for n in range(count)])


def keys(hits: list[Hit]) -> list[tuple[str, int]]:
    return [(hit.document_id, hit.ordinal) for hit in hits]


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> tuple[Searcher, Vectors]:
    """25,000 rows in 2,500 documents of ten."""
    vectors = clustered(25_000, 32, clusters=500)
    places = [(row, row // 10, row % 10) for row in range(25_000)]
    folder = tmp_path_factory.mktemp("lists")
    return searcher(folder, vectors, [f"d{n:04}" for n in range(2_500)], places), vectors


def test_hits_of_flat_equal_brute_force(tmp_path: Path) -> None:
    vectors = clustered(2_000, 24)
    queries = clustered(30, 24, seed=4) * 3
    found = plain(tmp_path, vectors).search(queries, 10)
    exact = brute_force(vectors, queries / np.linalg.norm(queries, axis=1, keepdims=True), 10)
    assert [[hit.document_id for hit in hits] for hits in found] == [[f"d{row:05}" for row in rows] for rows in exact]
    for query, hits in zip(queries, found):
        assert [hit.rank for hit in hits] == list(range(1, 11))
        for hit in hits:
            row = int(hit.document_id[1:])
            assert hit.score == pytest.approx(vectors[row] @ query / np.linalg.norm(query), abs=2e-6)
            assert (hit.text, hit.start, hit.end, hit.metadata) == (f"text {row}", 0, 9, {"name": hit.document_id})


def test_shared_texts_give_a_hit_for_each_place(tmp_path: Path) -> None:
    vectors = np.eye(4, dtype=np.float32)
    places = [(0, 2, 0), (1, 0, 0), (0, 0, 1), (2, 1, 0), (0, 2, 1), (3, 1, 1)]
    found = searcher(tmp_path, vectors, ["b", "c", "a"], places)
    query = np.array([[1, 0.5, 0.2, 0]], np.float32)
    (hits,) = found.search(query, 10)
    assert keys(hits) == [("a", 0), ("a", 1), ("b", 1), ("b", 0), ("c", 0), ("c", 1)]
    assert [hit.text for hit in hits] == ["text 0"] * 3 + ["text 1", "text 2", "text 3"]
    assert len({hit.score for hit in hits[:3]}) == 1
    for k in range(1, 7):
        assert found.search(query, k)[0] == hits[:k]
    (by_document,) = found.search(query, 10, by_document=True)
    assert keys(by_document) == [("a", 0), ("b", 1), ("c", 0)]
    assert [hit.rank for hit in by_document] == [1, 2, 3]


def test_equal_scores_are_sorted_by_document_id_whatever_the_row_order(tmp_path: Path) -> None:
    vectors = np.repeat(np.eye(2, dtype=np.float32), 500, axis=0)
    names = [f"d{(n * 7919) % 1000:03}" for n in range(1_000)]
    found = searcher(tmp_path, vectors, names, [(n, n, 0) for n in range(1_000)])
    (hits,) = found.search(np.array([[1.0, 0]], np.float32), 7)
    assert [hit.document_id for hit in hits] == sorted(names[:500])[:7]


def test_ties_beyond_the_limit_still_give_k_hits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "TIED_ROWS", 20)
    found = plain(tmp_path, np.ones((300, 3), np.float32))
    (hits,) = found.search(np.ones((1, 3), np.float32), 5)
    assert [hit.score for hit in hits] == [1.0] * 5
    assert found.search(np.ones((1, 3), np.float32), 5)[0] == hits


@pytest.mark.parametrize("k", [1, 10, 99, 100, 101, 5_000])
def test_exactly_as_many_hits_as_there_are(tmp_path: Path, k: int) -> None:
    vectors = clustered(80, 8)
    places = [(row, row % 7, row) for row in range(0, 80, 2)] + [(0, 6, 100 + n) for n in range(60)]
    found = searcher(tmp_path, vectors, list("gfedcba"), places)
    for hits in found.search(clustered(3, 8, seed=2), k):
        assert len(hits) == len(set(keys(hits))) == min(k, 100)
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert {len(hits) for hits in found.search(vectors[:3], k, by_document=True)} == {min(k, 7)}


def test_lists_find_what_exact_search_finds(lists: tuple[Searcher, Vectors]) -> None:
    found, vectors = lists
    queries = clustered(60, 32, clusters=500, seed=0)[:60]
    near, exact = found.search(queries, 10), found.search_exact(queries, 10)
    assert np.mean([len(set(keys(a)) & set(keys(b))) / 10 for a, b in zip(near, exact)]) > 0.95
    rows = brute_force(vectors, queries, 1)[:, 0]
    assert [hits[0].document_id for hits in exact] == [f"d{row // 10:04}" for row in rows]
    for a, b in zip(near, exact):
        assert {(k, h.score) for k, h in zip(keys(a), a)} & {(k, h.score) for k, h in zip(keys(b), b)}


@pytest.mark.parametrize(
    ("k", "by_document", "expected"), [(3_000, False, 3_000), (30_000, False, 25_000), (9_999, True, 2_500)]
)
def test_many_hits_from_lists(lists: tuple[Searcher, Vectors], k: int, by_document: bool, expected: int) -> None:
    found, vectors = lists
    (hits,) = found.search(vectors[:1], k, by_document)
    assert len(hits) == len(set(keys(hits))) == expected
    assert keys(hits)[0] == ("d0000", 0)


def test_one_query_or_many_give_the_same(lists: tuple[Searcher, Vectors]) -> None:
    found, vectors = lists
    together = found.search(vectors[:40], 10)
    assert [found.search(vectors[n : n + 1], 10)[0] for n in range(40)] == together
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda n: found.search(vectors[n : n + 1], 10)[0], range(40))) == together


def test_by_document_digs_under_a_document_that_fills_the_top(tmp_path: Path) -> None:
    vectors = clustered(3_000, 8, clusters=1, noise=0.01)
    vectors[-2:] = clustered(2, 8, seed=5)
    found = searcher(tmp_path, vectors, ["big", "x", "y"], [(n, max(0, n - 2_997), n) for n in range(3_000)])
    (hits,) = found.search(vectors[:1], 3, by_document=True)
    assert hits[0].document_id == "big"
    assert {hit.document_id for hit in hits} == {"big", "x", "y"}


def test_zero_vectors_in_the_index_score_zero(tmp_path: Path) -> None:
    found = plain(tmp_path, np.array([[0, 0], [1, 0], [-1, 0]], np.float32))
    (hits,) = found.search(np.array([[2.0, 0]], np.float32), 3)
    assert [(hit.document_id, hit.score) for hit in hits] == [("d00001", 1.0), ("d00000", 0.0), ("d00002", -1.0)]


def test_an_empty_index_gives_no_hits(tmp_path: Path) -> None:
    built = build_index(VectorSource(lambda: iter(()), 0, 3), 0.95, 10**9, tmp_path, 2)
    files = {**built.files, **write_places(tmp_path, ids.array([]), [], []).files}
    found = Searcher.open(IndexManifest("Flat", 0, 3, "cosine", 1.0, 0, {}, {}), files)
    for by_document in (False, True):
        assert found.search(np.ones((2, 3), np.float32), 10, by_document) == [[], []]
        assert found.search_exact(np.ones((1, 3), np.float32), 10, by_document) == [[]]
    assert found.search(np.empty((0, 3), np.float32), 10) == []


@pytest.mark.parametrize(
    ("query", "k", "message"),
    [
        ([[1, 0, 0]], 0, "k = 0: ask for at least one hit"),
        ([[1, 0, 0]], -3, "k = -3"),
        ([[1, 0]], 5, r"shape \(1, 2\), expected \(queries, 3\)"),
        ([1, 0, 0], 5, r"shape \(3,\)"),
        ([[1, 0, 0], [0, 0, 0]], 5, "query 1: its vector is all zeros"),
        ([[1, np.nan, 0]], 5, "query 0: its vector holds NaN"),
        ([[1, np.inf, 0]], 5, "query 0: its vector holds NaN or infinity"),
    ],
)
def test_queries_that_cannot_be(tmp_path: Path, query: list, k: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plain(tmp_path, np.eye(3, dtype=np.float32)).search(np.array(query, np.float32), k)


def test_files_that_do_not_fit_the_manifest(tmp_path: Path) -> None:
    manifest, files = make(tmp_path, clustered(20, 4), ["a"], [(n, 0, n) for n in range(20)])
    with pytest.raises(SearchIndexError, match="the index has 20 vectors, its manifest says 21"):
        Searcher.open(replace(manifest, rows=21), files)
    with pytest.raises(SearchIndexError, match="the index has 4 dimensions, its manifest says 5"):
        Searcher.open(replace(manifest, dimensions=5), files)
    for name in files:
        with pytest.raises(SearchIndexError, match=f"no file {name}"):
            Searcher.open(manifest, {key: path for key, path in files.items() if key != name})
