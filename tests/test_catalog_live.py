"""What tables say in the end: the last row of a document counts, each version is served once, each document has places."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfill import ids
from embedfill.catalog.live import (
    KeyIndex,
    chunk_rows,
    chunk_versions,
    corpus_rejections,
    load_live,
    places,
    wanted_texts,
)
from embedfill.catalog.tables import DOCUMENT_SCHEMA, TableWriter
from embedfill.chunker.tables import CHUNK_SCHEMA
from embedfill.records import Catalog
from embedfill.store import layout
from embedfill.store.cache import Cache
from embedfill.store.memory import MemoryStore

DocumentRow = tuple[str, str | None, str]  # document, version, part


def name(kind: str, value: str) -> bytes:
    return ids.digest(kind, value.encode())


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def cache(store: MemoryStore, tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", store)


def documents(cache: Cache, rows: list[DocumentRow]) -> str:
    """One document table."""
    values = [
        (name("k", one), one if version else "", name("v", version) if version else None, part, f'{{"of":"{version}"}}',
         name("d", f"{one}{version}{part}"))
        for one, version, part in rows
    ]  # fmt: skip
    return write(cache, values, DOCUMENT_SCHEMA, "documents")


def chunks(cache: Cache, rows: list[tuple[str, int, str]]) -> str:
    """One chunk table: (version, ordinal, text); a text in capitals is embedded with a prefix."""
    values = [
        (name("v", version), ordinal, ordinal * 10, ordinal * 10 + len(text), "", ids.text_id(embedded(text) or text),
         text, embedded(text), len(text))
        for version, ordinal, text in rows
    ]  # fmt: skip
    return write(cache, values, CHUNK_SCHEMA, "chunks")


def embedded(text: str) -> str | None:
    return f"head: {text}" if text.isupper() else None


def write(cache: Cache, rows: list[Any], schema: Any, folder: str) -> str:
    columns = zip(*rows) if rows else [()] * len(schema)
    batch = pa.record_batch([pa.array(c, f.type) for c, f in zip(columns, schema)], schema=schema)
    with TableWriter(cache.store, cache, schema, lambda digest: f"{folder}/{digest}.parquet") as table:
        table.add(batch)
    return table.keys[0]


def catalog(*tables: str, rejections: str | None = None) -> Catalog:
    return Catalog("c", "s", (), tables, rejections, 0, 0, 0, 0)


def versions(*values: str) -> Any:
    return np.sort(ids.array(name("v", value) for value in values))


row_lists = st.lists(
    st.tuples(st.sampled_from("abcdef"), st.sampled_from(["1", "2", None]), st.sampled_from(["p", "q"])), min_size=1, max_size=8
)  # fmt: skip


@given(st.lists(row_lists, max_size=4))
def test_the_last_row_of_a_document_counts(
    tmp_path_factory: pytest.TempPathFactory, tables: list[list[DocumentRow]]
) -> None:
    store = MemoryStore()
    cache = Cache(tmp_path_factory.mktemp("live"), store)
    live = load_live(cache, [documents(cache, rows) for rows in tables])
    last = {row[0]: row for rows in tables for row in rows}
    expected = {(name("k", one), name("v", version), part) for one, version, part in last.values() if version}
    found = set(zip(ids.tolist(live.keys), ids.tolist(live.versions), [live.parts[code] for code in live.part_codes]))
    assert found == expected
    assert len(live) == len(expected)
    read = [row for batch in live.read(cache, ["document_id", "metadata"]) for row in batch.to_pylist()]
    by_key = dict(zip(ids.tolist(live.keys), read, strict=True))
    for one, version, _ in last.values():
        if version:
            assert by_key[name("k", one)] == {"document_id": one, "metadata": f'{{"of":"{version}"}}'}


def test_a_selection_keeps_its_rows_and_their_order(cache: Cache) -> None:
    first = documents(cache, [("a", "1", "p"), ("b", "1", "q"), ("c", "1", "p")])
    second = documents(cache, [("d", "1", "q"), ("b", "2", "r")])
    live = load_live(cache, [first, second])
    assert live.in_parts(["p", "r"]).tolist() == [True, True, False, True]  # a, c, d, b
    some = live.select(live.in_parts(["p", "r"]))
    assert [row["document_id"] for batch in some.read(cache, ["document_id"]) for row in batch.to_pylist()] == [
        "a",
        "c",
        "b",
    ]
    assert not live.in_parts(["none such"]).any()


def test_no_tables_hold_nothing(cache: Cache) -> None:
    live = load_live(cache, [])
    assert (len(live), list(live.read(cache, ["document_id"]))) == (0, [])
    assert list(places(cache, catalog(), live)) == []


@given(
    st.lists(st.binary(min_size=16, max_size=16), unique=True, max_size=30),
    st.lists(st.binary(min_size=16, max_size=16), max_size=9),
)
def test_a_key_is_found_where_it_stands(keys: list[bytes], others: list[bytes]) -> None:
    asked = [*keys[::2], *others]
    at, found = KeyIndex(ids.array(keys)).find(ids.array(asked))
    assert found.tolist() == [key in keys for key in asked]
    assert [keys[row] for row, there in zip(at.tolist(), found.tolist()) if there] == [
        key for key in asked if key in keys
    ]


def texts(cache: Cache, held: Catalog, *wanted: str) -> list[tuple[str, bytes]]:
    found = [row for batch in wanted_texts(cache, held, versions(*wanted)) for row in batch.to_pylist()]
    assert all(set(row) == {"text_id", "text", "tokens"} for row in found)
    return [(row["text"], row["text_id"]) for row in found]


def test_wanted_texts_are_what_is_embedded_of_the_wanted_versions(cache: Cache) -> None:
    held = catalog(chunks(cache, [("1", 0, "one"), ("1", 1, "SHOUTED"), ("2", 0, "two")]))
    assert texts(cache, held, "1") == [("one", ids.text_id("one")), ("head: SHOUTED", ids.text_id("head: SHOUTED"))]
    assert texts(cache, held, "2", "9") == [("two", ids.text_id("two"))]
    assert texts(cache, held) == []


def test_a_version_in_two_tables_is_served_by_the_first(cache: Cache) -> None:
    first = chunks(cache, [("1", 0, "a"), ("1", 1, "b")])
    second = chunks(cache, [("2", 0, "c"), ("1", 0, "a"), ("1", 1, "b")])
    assert [text for text, _ in texts(cache, catalog(first, second), "1", "2")] == ["a", "b", "c"]
    assert [text for text, _ in texts(cache, catalog(second, first), "1", "2")] == ["c", "a", "b"]


def test_a_version_of_many_rows_is_served_whole(cache: Cache) -> None:
    """More rows than one batch of reading holds, in both of two tables."""
    rows = [("1", number, f"t{number}") for number in range(40_000)]
    first = chunks(cache, rows)
    second = chunks(cache, [("2", 0, "other"), *rows])
    found = [text for text, _ in texts(cache, catalog(first, second), "1", "2")]
    assert found == [*(text for _, _, text in rows), "other"]


def test_only_the_columns_asked_for_come_in_their_order(cache: Cache) -> None:
    held = catalog(chunks(cache, [("1", 0, "one")]))
    (batch,) = chunk_rows(cache, held, versions("1"), ["ordinal", "version"])
    assert batch.schema.names == ["ordinal", "version"]
    (batch,) = chunk_rows(cache, held, versions("1"), ["text"])
    assert batch.to_pylist() == [{"text": "one"}]


def test_documents_of_equal_content_have_places_of_their_own(cache: Cache) -> None:
    table = documents(cache, [("a", "1", "p"), ("b", "2", "p"), ("c", "1", "p"), ("d", None, "p")])
    live = load_live(cache, [table])
    held = catalog(chunks(cache, [("1", 0, "x"), ("1", 1, "Y"), ("2", 0, "z"), ("3", 0, "unwanted")]))
    names = [row["document_id"] for batch in live.read(cache, ["document_id"]) for row in batch.to_pylist()]
    found = [row for batch in places(cache, held, live) for row in batch.to_pylist()]
    assert sorted((names[one["document"]], one["ordinal"], one["start"], one["end"], one["text"]) for one in found) == [
        ("a", 0, 0, 1, "x"), ("a", 1, 10, 11, "Y"), ("b", 0, 0, 1, "z"), ("c", 0, 0, 1, "x"), ("c", 1, 10, 11, "Y"),
    ]  # fmt: skip
    assert {one["text_id"] for one in found if one["text"] == "Y"} == {ids.text_id("head: Y")}


def test_versions_of_a_table_are_sorted_and_each_once(cache: Cache) -> None:
    key = chunks(cache, [("b", 0, "x"), ("a", 0, "x"), ("b", 1, "y")])
    assert ids.tolist(chunk_versions(cache, key)) == sorted([name("v", "a"), name("v", "b")])


def test_rejections_are_those_of_the_catalog(cache: Cache, store: MemoryStore) -> None:
    assert corpus_rejections(cache, catalog()) == b""
    store.create(layout.corpus_rejections("x"), b'{"code":"c"}\n')
    assert corpus_rejections(cache, catalog(rejections=layout.corpus_rejections("x"))) == b'{"code":"c"}\n'
