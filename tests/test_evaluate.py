import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfill.errors import CorpusError, UsageError
from embedfill.evaluate import (
    evaluate,
    mrr_at,
    ndcg_at,
    read_qrels,
    read_queries,
    recall_at,
    write_ranking,
)
from embedfill.records import Hit

DOCUMENTS = st.lists(st.sampled_from("abcdefgh"), max_size=20)
GAINS = st.dictionaries(st.sampled_from("abcdefgh"), st.floats(-1, 5), max_size=8)


def test_by_hand() -> None:
    ranked = ["x", "a", "x", "a", "b", "y", "c"]  # by document: x a b y c
    assert recall_at(ranked, {"a", "c", "z", "b"}, 3) == 0.5
    assert recall_at(ranked, {"a", "c", "z", "b"}, 10) == 0.75
    assert mrr_at(ranked, {"b", "c"}, 10) == pytest.approx(1 / 3)
    assert mrr_at(ranked, {"c"}, 4) == 0
    gained = 3 / math.log2(3) + 1 / math.log2(4) + 2 / math.log2(6)
    ideal = 3 + 2 / math.log2(3) + 1 / math.log2(4)
    assert ndcg_at(ranked, {"a": 3, "b": 1, "c": 2, "y": 0}, 10) == pytest.approx(gained / ideal)
    assert ndcg_at(ranked, {"a": 3, "c": 2}, 1) == 0
    assert ndcg_at(["a"], {"a": 1, "b": 1}, 1) == 1, "the ideal list is cut at k too"


def test_means_count_judged_queries_only() -> None:
    run = {"1": ["a", "b"], "2": ["b", "a"], "3": ["a"], "4": [], "5": ["a"]}
    qrels = {"1": {"a": 1.0}, "2": {"a": 2.0, "b": 0.0}, "4": {"a": 1.0}, "5": {"a": 0.0}, "6": {"a": 1.0}}
    metrics = evaluate(run, qrels)
    assert (metrics.queries, metrics.unjudged) == (3, 2)
    assert metrics.recall_at_10 == pytest.approx(2 / 3)
    assert metrics.mrr_at_10 == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert metrics.ndcg_at_10 == pytest.approx((1 + 1 / math.log2(3)) / 3)


@pytest.mark.parametrize("run", [{}, {"7": ["a"]}])
def test_nothing_to_count_is_said(run: dict[str, list[str]]) -> None:
    with pytest.raises((UsageError, CorpusError), match="no query has a relevant document"):
        evaluate(run, {"1": {"a": 1.0}})


@given(DOCUMENTS, GAINS, st.integers(1, 12))
def test_bounds(ranked: list[str], gains: dict[str, float], k: int) -> None:
    relevant = {document for document, gain in gains.items() if gain > 0}
    recall, mrr, ndcg = recall_at(ranked, relevant, k), mrr_at(ranked, relevant, k), ndcg_at(ranked, gains, k)
    assert 0 <= mrr <= 1
    assert 0 <= ndcg <= 1 + 1e-12
    assert (recall > 0) == (mrr > 0) == (ndcg > 0)
    assert recall <= recall_at(ranked, relevant, k + 1) <= 1
    assert mrr == 0 or mrr >= 1 / k


@given(GAINS)
def test_the_best_order_is_worth_one(gains: dict[str, float]) -> None:
    best = sorted(gains, key=lambda document: -gains[document])
    assert ndcg_at(best, gains, 10) == pytest.approx(1.0 if max(gains.values(), default=0) > 0 else 0.0)


def test_readers_take_integers_and_strings(tmp_path: Path) -> None:
    queries, qrels = tmp_path / "q.parquet", tmp_path / "r.parquet"
    pq.write_table(pa.table({"text": ["one", "two"], "query_id": [7, 8], "kind": ["a", "b"]}), queries)
    assert read_queries(queries) == [("7", "one"), ("8", "two")]
    rows = {"query_id": ["7", "7", "8", "7"], "document_id": [1, 2, 1, 2], "relevance": [1, 0, 2, 3]}
    pq.write_table(pa.table(rows), qrels)
    assert read_qrels(qrels) == {"7": {"1": 1.0, "2": 3.0}, "8": {"1": 2.0}}
    pq.write_table(pa.table(rows | {"relevance": [0.5, 0.0, 1.0, 0.25]}), qrels)
    assert read_qrels(qrels)["7"] == {"1": 0.5, "2": 0.25}


@pytest.mark.parametrize(
    ("columns", "message", "hint"),
    [
        ({"id": [1], "text": ["a"]}, r"q\.parquet: no column 'query_id'", "its columns are id, text"),
        ({"query_id": [1], "question": ["a"]}, r"q\.parquet: no column 'text'", "its columns are query_id, question"),
        ({"query_id": [1, None], "text": ["a", "b"]}, r"q\.parquet: row 1: query_id = None", ""),
        ({"query_id": [1.5], "text": ["a"]}, r"row 0: query_id = 1\.5, expected an integer or a string", ""),
        ({"query_id": [1, 2], "text": ["a", None]}, "row 1: text = None, expected text", ""),
        ({"query_id": [1, 2, 1], "text": ["a", "b", "c"]}, "row 2: query_id '1' stands twice", ""),
    ],
)
def test_queries_that_cannot_be_read(tmp_path: Path, columns: dict, message: str, hint: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "q.parquet")
    with pytest.raises((UsageError, CorpusError), match=message) as caught:
        read_queries(tmp_path / "q.parquet")
    assert caught.value.hint == hint


@pytest.mark.parametrize("relevance", [["high"], [None], [math.nan]])
def test_relevance_is_a_number(tmp_path: Path, relevance: list) -> None:
    pq.write_table(pa.table({"query_id": [1], "document_id": [1], "relevance": relevance}), tmp_path / "r.parquet")
    with pytest.raises((UsageError, CorpusError), match=r"row 0: relevance = .*, expected a number"):
        read_qrels(tmp_path / "r.parquet")


def test_files_that_are_not_parquet(tmp_path: Path) -> None:
    (tmp_path / "q.parquet").write_text("query_id,text")
    with pytest.raises((UsageError, CorpusError), match=r"q\.parquet: not a readable Parquet file"):
        read_queries(tmp_path / "q.parquet")
    with pytest.raises((UsageError, CorpusError), match=r"none\.parquet: no such file"):
        read_qrels(tmp_path / "none.parquet")


def test_write_ranking(tmp_path: Path) -> None:
    hits = [Hit(rank, 1 / rank, f"d{rank}", rank + 5, 0, 1, "text", {}) for rank in (1, 2)]
    write_ranking(tmp_path / "out.parquet", [("q1", hits), ("q2", []), ("q3", hits[:1])])
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert rows[1] == {"query_id": "q1", "rank": 2, "document_id": "d2", "ordinal": 7, "score": 0.5}
    assert [row["query_id"] for row in rows] == ["q1", "q1", "q3"]
    write_ranking(tmp_path / "none.parquet", [])
    assert pq.read_table(tmp_path / "none.parquet").num_rows == 0
    with pytest.raises((UsageError, CorpusError), match="could not be written"):
        write_ranking(tmp_path / "absent" / "out.parquet", [])
