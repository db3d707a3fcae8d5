import hashlib
from pathlib import Path

import numpy as np
import pytest

from embedfill.errors import SearchIndexError
from embedfill.index import build, faiss_, plan, sample
from embedfill.index.build import BuiltIndex, build_index
from embedfill.index.faiss_ import faiss
from embedfill.index.nearest import Rows
from embedfill.index.ranker import FlatRanker, ListRanker, Ranker, open_ranker
from embedfill.index.source import Vectors, VectorSource
from tests.index_fixtures import brute_force, clustered, row_ids, source

ROWS = 25_000
MEMORY = 4 * 10**9


@pytest.fixture(scope="module")
def vectors() -> Vectors:
    return clustered(ROWS, 64, clusters=500)


@pytest.fixture(scope="module")
def built(vectors: Vectors, tmp_path_factory: pytest.TempPathFactory) -> BuiltIndex:
    return build_index(source(vectors), 0.95, MEMORY, tmp_path_factory.mktemp("lists"), 2)


def opened(built: BuiltIndex) -> Ranker:
    return open_ranker(built.files, built.parameters.get("nprobe", 1), built.parameters.get("depth", 1))


def recall(found: Rows, exact: Rows) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found.tolist(), exact.tolist(), strict=True)]))


def test_lists_reach_the_target_as_an_independent_computation_says(vectors: Vectors, built: BuiltIndex) -> None:
    assert built.kind == "IVF253,PQ32x4fs,Refine(fp16)"
    assert (built.rows, built.dimensions, built.metric) == (ROWS, 64, "cosine")
    assert built.recall_at_10 >= 0.95
    asking = np.flatnonzero(sample.place(row_ids(ROWS)) < sample.MEASURE_QUERIES / ROWS)
    assert built.parameters["queries"] == len(asking)
    exact = brute_force(vectors, vectors[asking], 11)[:, 1:]
    found, _ = opened(built).nearest(vectors[asking], 11)
    assert (found[:, 0] == asking).mean() > 0.99
    assert recall(found[:, 1:11], exact) == pytest.approx(built.recall_at_10, abs=0.005)
    others = np.random.default_rng(5).choice(ROWS, 300, replace=False)
    found, _ = opened(built).nearest(vectors[others], 11)
    assert recall(found[:, :10], brute_force(vectors, vectors[others], 10)) == pytest.approx(
        built.recall_at_10, abs=0.02
    )


def test_manifest_tells_sizes_and_settings(built: BuiltIndex) -> None:
    assert built.files["rerank.f16"].stat().st_size == ROWS * 64 * 2
    assert built.bytes == sum(path.stat().st_size for path in built.files.values())
    names = {"lists", "training_rows", "nprobe", "depth", "queries", "tuning_queries", "centroid_similarity"}
    assert names | {"imbalance", "resident_bytes"} == set(built.parameters)
    assert 0 < built.parameters["centroid_similarity"] < 1
    index_bytes = built.files["index.faiss"].stat().st_size
    assert built.parameters["resident_bytes"] == pytest.approx(index_bytes, rel=0.15)


def test_scores_are_cosines_and_descend(vectors: Vectors, built: BuiltIndex) -> None:
    queries = clustered(50, 64, seed=9)
    rows, scores = opened(built).nearest(queries, 10)
    true = np.einsum("qmd,qd->qm", vectors[rows], queries)
    assert np.abs(np.where(rows < 0, 0, scores - true)).max() < 5e-4
    assert (np.diff(scores, axis=1) <= 0).all()


def test_exact_ranking_over_the_lists_equals_brute_force(vectors: Vectors, built: BuiltIndex) -> None:
    rows, _ = opened(built).exact(vectors[:40], 20)
    assert recall(rows, brute_force(vectors, vectors[:40], 20)) > 0.995  # float16 swaps neighbours at the end


def test_two_builds_give_the_same_bytes(vectors: Vectors, built: BuiltIndex, tmp_path: Path) -> None:
    again = build_index(source(vectors, 777), 0.95, MEMORY, tmp_path, 2)
    assert again.parameters == built.parameters
    for name, path in built.files.items():
        assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(again.files[name].read_bytes()).digest()


def test_rows_can_be_removed_and_added(vectors: Vectors, built: BuiltIndex) -> None:
    index = faiss_.read(built.files["index.faiss"])
    gone = np.arange(0, 5_000, dtype=np.int64)
    assert index.remove_ids(faiss.IDSelectorBatch(gone)) == 5_000
    rerank = opened(built)._rerank  # type: ignore[attr-defined]
    ranker = ListRanker(index, rerank, built.parameters["nprobe"], built.parameters["depth"])
    found, _ = ranker.nearest(vectors[:100], 10)
    assert found[found >= 0].min() >= 5_000
    index.add_with_ids(vectors[:100], np.arange(100))
    found, _ = ListRanker(index, rerank, ranker.nprobe, ranker.depth).nearest(vectors[:100], 10)
    assert (found[:, 0] == np.arange(100)).mean() > 0.98


def test_more_results_take_more_lists_and_candidates(vectors: Vectors, built: BuiltIndex) -> None:
    found, _ = opened(built).nearest(vectors[:100], 200)
    assert found.shape[1] >= 200
    assert recall(found[:, :200], brute_force(vectors, vectors[:100], 200)) > built.recall_at_10 - 0.03


@pytest.mark.parametrize("rows", [1, 2, 3, 11, 12, 500, 5_000])
def test_flat_equals_brute_force(tmp_path: Path, rows: int) -> None:
    vectors = clustered(rows, 32)
    built = build_index(source(vectors * 7.5), 0.95, MEMORY, tmp_path, 2)
    assert (built.kind, built.recall_at_10, list(built.files)) == ("Flat", 1.0, ["index.faiss"])
    queries = clustered(40, 32, seed=3)
    found, scores = opened(built).nearest(queries, 10)
    assert found[:, :10].tolist() == brute_force(vectors, queries, 10).tolist()
    assert np.abs(scores - np.einsum("qmd,qd->qm", vectors[found], queries)).max() < 1e-6


def test_flat_after_removals_scores_the_right_rows(tmp_path: Path) -> None:
    vectors = clustered(100, 16)
    built = build_index(source(vectors), 0.95, MEMORY, tmp_path, 2)
    index = faiss_.read(built.files["index.faiss"])
    index.remove_ids(faiss.IDSelectorBatch(np.arange(10, 20, dtype=np.int64)))
    rows, scores = FlatRanker(index).nearest(vectors[20:30], 5)
    assert rows[:, 0].tolist() == list(range(20, 30))
    assert scores[:, 0] == pytest.approx(1)


def test_no_rows(tmp_path: Path) -> None:
    built = build_index(VectorSource(lambda: iter(()), 0, 16), 0.95, MEMORY, tmp_path, 2)
    assert (built.kind, built.rows, built.recall_at_10) == ("Flat", 0, 1.0)
    rows, scores = opened(built).nearest(clustered(3, 16), 10)
    assert rows.shape == scores.shape == (3, 0)


def test_all_vectors_zero_or_equal(tmp_path: Path) -> None:
    assert build_index(source(np.zeros((30, 8), np.float32)), 0.95, MEMORY, tmp_path, 2).recall_at_10 == 1.0
    equal = np.repeat(clustered(1, 8), 300, axis=0)
    assert build_index(source(equal), 0.95, MEMORY, tmp_path, 2).recall_at_10 == 1.0


@pytest.mark.parametrize(
    ("dimensions", "memory", "code"), [(9, MEMORY, "SQ8"), (2, MEMORY, "PQ1x4fs"), (16, 1, "PQ4x4fs")]
)
def test_other_codes(tmp_path: Path, dimensions: int, memory: int, code: str) -> None:
    vectors = clustered(20_500, dimensions)
    vectors[::100] = 0
    built = build_index(source(vectors), 0.9, memory, tmp_path, 2)
    assert built.kind == f"IVF229,{code},Refine(fp16)"
    assert built.recall_at_10 >= 0.9
    _, scores = opened(built).nearest(vectors[1:100], 10)
    assert scores[:, 0] == pytest.approx(1, abs=2e-3), "each row finds itself, or one as near"


def test_many_equal_vectors_do_not_spoil_the_measurement(tmp_path: Path) -> None:
    vectors = np.repeat(clustered(2_100, 16), 10, axis=0)
    assert build_index(source(vectors), 0.95, MEMORY, tmp_path, 2).recall_at_10 >= 0.95


def test_a_target_out_of_reach_gives_flat_if_it_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "measure", lambda ranker, truth: 1.0 if isinstance(ranker, FlatRanker) else 0.5)
    vectors = clustered(20_100, 8)
    flat = build_index(source(vectors), 0.9, MEMORY, tmp_path / "flat", 2)
    assert (flat.kind, flat.recall_at_10, list(flat.files)) == ("Flat", 1.0, ["index.faiss"])
    assert [path.name for path in (tmp_path / "flat").iterdir()] == ["index.faiss"]
    short = plan.flat(20_100, 8).resident_bytes - 1
    kept = build_index(source(vectors), 0.9, short, tmp_path / "lists", 2)
    assert kept.recall_at_10 == 0.5
    assert kept.parameters["nprobe"] == kept.parameters["lists"], "everything was tried"


def test_progress_counts_every_row(tmp_path: Path) -> None:
    seen: list[int] = []
    build_index(source(clustered(9_000, 4)), 0.9, MEMORY, tmp_path, 2, seen.append)
    assert sum(seen) == 9_000
    assert len(seen) > 1


def test_a_vector_that_is_not_finite_stops_the_build(tmp_path: Path) -> None:
    vectors = clustered(100, 4)
    vectors[17, 0] = np.nan
    with pytest.raises(SearchIndexError, match="row 17"):
        build_index(source(vectors), 0.9, MEMORY, tmp_path, 2)


def test_damaged_files_are_named(built: BuiltIndex, tmp_path: Path) -> None:
    index, rerank = (built.files[name].read_bytes() for name in ("index.faiss", "rerank.f16"))
    files = {name: tmp_path / name for name in built.files}
    for name, data in {"index.faiss": index, "rerank.f16": rerank}.items():
        files[name].write_bytes(data)
    for size in (0, 3, 100, len(index) // 2, len(index) - 1):
        files["index.faiss"].write_bytes(index[:size])
        with pytest.raises(SearchIndexError, match=r"index\.faiss: not a readable FAISS index"):
            open_ranker(files, 1, 1)
    files["index.faiss"].write_bytes(index)
    files["rerank.f16"].write_bytes(rerank[:-128])
    with pytest.raises(SearchIndexError, match=r"rerank\.f16: has 24,999 rows, expected 25,000"):
        open_ranker(files, 1, 1)
    files["rerank.f16"].unlink()
    with pytest.raises(SearchIndexError, match=r"rerank\.f16: the file is missing"):
        open_ranker(files, 1, 1)
    with pytest.raises(SearchIndexError, match=r"no file rerank\.f16"):
        open_ranker({"index.faiss": built.files["index.faiss"]}, 1, 1)


def test_faiss_threads_wait_passively() -> None:
    import os

    assert os.environ["OMP_WAIT_POLICY"]
