"""`embedfill search` and `embedfill eval`: what they print and return, and that no document steers the terminal."""

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedfill.cli.search import lines_of
from embedfill.records import Hit
from tests.chain_fixtures import Chain, documents, sentence
from tests.cli_fixtures import Cli, everything_below, run_process
from tests.engine_fixtures import EngineProcess

HOSTILE = "\x1b[31m\x9b\x07\u202e"


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """For tests that only look."""
    chain = Chain(tmp_path_factory.mktemp("indexed")).write(documents(range(40)))
    chain.run()
    return chain


def hit(**changed: Any) -> Hit:
    values: dict[str, Any] = {
        "rank": 1, "score": 0.5, "document_id": "id", "ordinal": 0, "start": 0, "end": 9, "text": "the text", "metadata": {},
    }  # fmt: skip
    return Hit(**{**values, **changed})


def test_hits_have_the_names_that_scripts_rely_on(cli: Cli, indexed: Chain) -> None:
    before = everything_below(indexed.folder)
    ran = cli("search", indexed.config_path, sentence(7), "-k", 3, "--json")
    assert (ran.code, ran.err) == (0, "")
    assert set(ran.json) == {"query", "hits"} and ran.json["query"] == sentence(7)
    best, *_ = hits = ran.json["hits"]
    assert set(best) == {"rank", "score", "document_id", "ordinal", "start", "end", "text", "metadata"}
    assert [one["rank"] for one in hits] == [1, 2, 3]
    assert [one["score"] for one in hits] == sorted((one["score"] for one in hits), reverse=True)
    assert best["score"] == pytest.approx(1.0, abs=1e-3)
    assert (best["document_id"], best["ordinal"], best["metadata"]) == ("doc-7", 0, {"title": "Title 7"})
    assert best["text"] == sentence(7)[best["start"] : best["end"]]
    assert everything_below(indexed.folder) == before


def test_ten_hits_unless_told_and_no_more_than_there_are(cli: Cli, indexed: Chain) -> None:
    assert len(cli("search", indexed.config_path, "engine", "--json").json["hits"]) == 10
    assert len(cli("search", indexed.config_path, "engine", "-k", 1000, "--json").json["hits"]) == 40


def test_an_integer_id_is_a_string(cli: Cli, chain: Chain) -> None:
    chain.write([{"id": 7, "title": "t", "text": "one text"}]).config()
    cli("run", chain.config_path)
    assert cli("search", chain.config_path, "text", "--json").json["hits"][0]["document_id"] == "7"


@pytest.mark.parametrize("query", ["", "  \n"])
def test_an_empty_query_is_wrong_usage(cli: Cli, indexed: Chain, query: str) -> None:
    ran = cli("search", indexed.config_path, query, "--json")
    assert (ran.code, ran.error["code"]) == (2, "usage")


@pytest.mark.parametrize("query", ["<|endoftext|>", "[SEP]", "漢字 \U0001f600", "x" * 20_000, "\u2028", "a\x00b"])
def test_any_words_are_a_query(cli: Cli, indexed: Chain, query: str) -> None:
    if query.strip():
        ran = cli("search", indexed.config_path, query, "--json")
        assert (ran.code, len(ran.json["hits"]), ran.json["query"]) == (0, 10, query)


def test_a_query_that_is_not_utf_8(indexed: Chain) -> None:
    ran = run_process("search", indexed.config_path, os.fsdecode(b"engine \xff\xfe"), "--json")
    assert (ran.code, ran.err) == (0, "")
    assert "\\udcff" in ran.out


def test_a_store_without_an_index(cli: Cli, chain: Chain) -> None:
    chain.write(documents(range(60))).config(batch={"max_enqueued_tokens": 240})
    assert cli("run", chain.config_path, "--no-wait").code == 4
    ran = cli("search", chain.config_path, "words", "--json")
    assert (ran.code, ran.error["code"]) == (2, "usage")
    assert "nothing is published" in ran.error["message"]


def test_a_corpus_of_nothing_has_no_hits(cli: Cli, chain: Chain) -> None:
    schema = pa.schema({"id": pa.string(), "title": pa.string(), "text": pa.string()})
    (chain.folder / "corpus").mkdir()
    pq.write_table(pa.Table.from_pylist([], schema=schema), chain.folder / "corpus" / "a.parquet")
    chain.config()
    ran = cli("run", chain.config_path, "--json")
    assert (ran.code, ran.json["documents"], ran.json["texts"]) == (0, 0, 0)
    assert cli("search", chain.config_path, "words", "--json").json["hits"] == []
    assert cli("search", chain.config_path, "words").out == "no hits\n"
    assert "Flat" in cli("status", chain.config_path).out


def test_no_document_steers_the_terminal(cli: Cli, chain: Chain) -> None:
    chain.write(
        [{"id": f"id{HOSTILE}", "title": f"t{HOSTILE}", "text": f"an owl {HOSTILE} reads\x1b]8;;x\x07 on"}]
    ).config()
    cli("run", chain.config_path)
    out = cli("search", chain.config_path, f"owl {HOSTILE}").out
    assert "an owl" in out and "reads" in out
    assert not {"\x1b", "\x9b", "\x07", "\u202e"} & set(out)
    (found,) = cli("search", chain.config_path, "owl", "--json").json["hits"]
    assert found["document_id"] == f"id{HOSTILE}"


def test_a_hit_for_a_reader() -> None:
    lines = lines_of([hit(), hit(rank=2, metadata={"title": "T", "heading": "H", "other": "O", "name": None})])
    assert lines[0] == "  1  0.500  id"
    assert lines[1].strip() == "the text"
    assert (lines[2], lines[3].strip()) == ("  2  0.500  T · H", "id [0:9]")
    assert lines_of([hit(metadata={"title": 5})])[0].endswith("  5")


@pytest.mark.parametrize("text", ["漢" * 1_000, "x" * 1_000, "word " * 300, "a " * 20 + "b" * 1_000])
def test_a_long_passage_is_cut_and_still_shown(text: str) -> None:
    """Also where it has no spaces to be cut at."""
    shown = "".join(line.strip() for line in lines_of([hit(text=text)])[1:])
    assert 200 < len(shown) <= 410
    assert shown.endswith("…") and shown[0] == text[0]


def test_a_short_passage_is_shown_whole() -> None:
    assert lines_of([hit(text="漢" * 50)])[1].strip() == "漢" * 50


# ---------------------------------------------------------------------------------------------------------------------
# Evaluation


def judged(folder: Path) -> list[object]:
    questions = [{"query_id": n, "text": sentence(n)} for n in range(5)] + [
        {"query_id": 9, "text": "nobody judged this"}
    ]
    pq.write_table(pa.Table.from_pylist(questions), folder / "q.parquet")
    judgements = [{"query_id": n, "document_id": f"doc-{n}", "relevance": 1} for n in range(5)]
    judgements.append({"query_id": 0, "document_id": "doc-gone", "relevance": 1})
    pq.write_table(pa.Table.from_pylist(judgements), folder / "r.parquet")
    return ["--queries", folder / "q.parquet", "--qrels", folder / "r.parquet"]


def test_eval_gives_the_means_and_writes_the_ranking(cli: Cli, indexed: Chain, tmp_path: Path) -> None:
    files = judged(tmp_path)
    ran = cli("eval", indexed.config_path, *files, "--out", tmp_path / "out.parquet", "--json")
    assert (ran.code, ran.err) == (0, "")
    assert set(ran.json) >= {"queries", "recall_at_10", "mrr_at_10", "ndcg_at_10"}
    assert (ran.json["queries"], ran.json["mrr_at_10"]) == (5, 1.0)
    assert ran.json["recall_at_10"] == pytest.approx(0.9)
    ranked = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert {"query_id", "rank", "document_id", "score"} <= set(ranked[0])
    assert len(ranked) == 60
    assert "MRR@10 1.0000" in cli("eval", indexed.config_path, *files).out


def test_eval_names_a_file_it_cannot_use(cli: Cli, indexed: Chain) -> None:
    ran = cli("eval", indexed.config_path, "--queries", "none.parquet", "--qrels", "none.parquet", "--json")
    assert ran.code == 1 and "none.parquet" in ran.error["message"]


def test_a_server_of_the_api_embeds_the_queries(
    cli: Cli, chain: Chain, engine: EngineProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    server = {"provider": "openai", "base_url": engine.url, "model": "wordllama-256", "dimensions": 64}
    chain.write(documents(range(20))).config(embedding=server)
    assert cli("plan", chain.config_path, "--json").json["new"] == 20
    assert cli("run", chain.config_path, "--json").json["embedded"] == 20
    assert cli("search", chain.config_path, sentence(3), "--json").json["hits"][0]["document_id"] == "doc-3"
    assert cli("eval", chain.config_path, *judged(chain.folder), "--json").json["mrr_at_10"] == 1.0
    assert cli("status", chain.config_path, "--json").json["texts"] == 20
    chain.config(embedding={"model": "wordllama-256"})
    ran = cli("search", chain.config_path, "words", "--json")
    assert ran.code == 2 and engine.url.removesuffix("/v1") in ran.error["message"]
