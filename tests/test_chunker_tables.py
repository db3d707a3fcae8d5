"""Rows of chunks: their schema and identities, what counts as one document, rejections, and the trip to a worker."""

import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfill import ids
from embedfill.chunker.tables import CHUNK_SCHEMA, chunk_documents, document_version
from embedfill.errors import ConfigError
from embedfill.records import ChunkSpec, Document, Source

SPEC = ChunkSpec("cl100k_base", 32, 8, "auto", "{text}", 2_000)
LONG = "A sentence of several words, as they go. " * 30


def document(text: str, id: str = "d", row: int = 0, **fields: str) -> Document:
    return Document(id, text, {"page": 1}, fields, Source("f.parquet", row))


def test_rows_carry_what_later_stages_need() -> None:
    batch = chunk_documents([document("  Short one.\n"), document(LONG)], SPEC)
    assert batch.rows.schema == CHUNK_SCHEMA
    assert batch.rejections == []
    first, *rest = batch.rows.to_pylist()
    assert first == {
        "version": document_version(document("  Short one.\n"), SPEC),
        "ordinal": 0,
        "start": 2,
        "end": 12,
        "heading": "",
        "text_id": ids.text_id("Short one."),
        "text": "Short one.",
        "embed": None,
        "tokens": 3,
    }
    assert [row["ordinal"] for row in rest] == list(range(len(rest)))
    assert len(rest) > 10
    assert {row["version"] for row in rest} == {document_version(document(LONG), SPEC)}


def test_what_is_embedded_is_kept_where_it_differs() -> None:
    spec = replace(SPEC, template="{title}: {text}")
    (row,) = chunk_documents([document("body", title="Head")], spec).rows.to_pylist()
    assert (row["text"], row["embed"]) == ("body", "Head: body")
    assert row["text_id"] == ids.text_id("Head: body")
    assert row["tokens"] == 3


def test_the_version_sees_what_chunking_sees() -> None:
    base = document("text", a="1", b="2")
    version = document_version(base, SPEC)
    assert len(version) == 16
    same = Document("other id", "text", {}, {"b": "2", "a": "1"}, Source("elsewhere", 9))
    assert document_version(same, SPEC) == version
    changed = [document("Text", a="1", b="2"), document("text", a="2", b="1"), document("text", a="1")]
    specs = [replace(SPEC, max_tokens=33), replace(SPEC, template="{text}{a}"), replace(SPEC, tokenizer="o200k_base")]
    others = [document_version(d, SPEC) for d in changed] + [document_version(base, spec) for spec in specs]
    assert len({version, *others}) == 7


def test_equal_documents_give_their_rows_once() -> None:
    batch = chunk_documents([document("same", "a"), document("other", "b"), document("same", "c")], SPEC)
    assert batch.rows.column("text").to_pylist() == ["same", "other"]


def test_a_rejection_for_each_document_that_has_no_room() -> None:
    spec = replace(SPEC, template="{title} {text}")
    title = "much too long " * 20
    documents = [
        document("a", "a", 3, title=title),
        document("b", "b", 4, title="t"),
        document("a", "c", 5, title=title),
    ]
    batch = chunk_documents(documents, spec)
    assert batch.rows.column("text").to_pylist() == ["b"]
    assert [(r.code, r.document_id, r.source) for r in batch.rejections] == [
        ("template_too_long", "a", Source("f.parquet", 3)),
        ("template_too_long", "c", Source("f.parquet", 5)),
    ]
    assert "32 tokens" in batch.rejections[0].message


def test_no_documents_are_no_rows() -> None:
    batch = chunk_documents([], SPEC)
    assert batch.rows.num_rows == 0
    assert batch.rows.schema == CHUNK_SCHEMA


def test_a_wrong_specification_is_named() -> None:
    with pytest.raises(ConfigError, match="no_such"):
        chunk_documents([document("x")], replace(SPEC, tokenizer="no_such"))
    with pytest.raises(ConfigError, match=r"embedding\.template"):
        chunk_documents([document("x")], replace(SPEC, template="x"))


words = st.sampled_from(["word", "Longer. ", "漢字。", "\n\n", "# Head\n", " ", "e\u0301", "x" * 40])
bodies = st.lists(words, min_size=1, max_size=60).map(lambda parts: "a" + "".join(parts))


@given(st.lists(bodies, min_size=1, max_size=12), st.integers(1, 5))
def test_batches_of_any_size_give_the_same_rows(bodies: list[str], size: int) -> None:
    documents = [document(body, str(row), row) for row, body in enumerate(dict.fromkeys(bodies))]
    together = chunk_documents(documents, SPEC).rows.to_pylist()
    parts = [chunk_documents(documents[at : at + size], SPEC) for at in range(0, len(documents), size)]
    assert [row for part in parts for row in part.rows.to_pylist()] == together


def test_a_worker_process_gives_the_same_rows() -> None:
    documents = [document(LONG), document("short", "b")]
    spec = replace(SPEC, template="{text}!")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        there = pool.submit(chunk_documents, documents, spec).result()
    here = chunk_documents(documents, spec)
    assert there.rows.equals(here.rows)
    assert pickle.loads(pickle.dumps(here)).rows.equals(here.rows)
