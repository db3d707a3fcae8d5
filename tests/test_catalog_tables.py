"""Table objects and the catalog: named by content, split by size, nothing left of one that failed."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedfill import ids
from embedfill.catalog import tables
from embedfill.catalog.tables import DOCUMENT_SCHEMA, TableWriter, load, save, write_bytes
from embedfill.chunker.tables import CHUNK_SCHEMA
from embedfill.errors import MissingError
from embedfill.records import Catalog
from embedfill.store import layout
from embedfill.store.cache import Cache
from embedfill.store.memory import MemoryStore

CATALOG = Catalog("corpus", "chunk", ("documents/1", "documents/2"), ("chunks/1",), "rejections/1", 3, 10, 8, 2, ("a",))
Writer = Callable[[], TableWriter]


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def cache(store: MemoryStore, tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", store)


@pytest.fixture
def writer(store: MemoryStore, cache: Cache) -> Writer:
    return partial(TableWriter, store, cache, DOCUMENT_SCHEMA, layout.documents)


def batch(start: int, count: int, metadata: str = "{}") -> Any:
    numbers = range(start, start + count)
    keys = [ids.digest("document_id", str(number).encode()) for number in numbers]
    columns = [keys, [str(n) for n in numbers], keys, ["part"] * count, [metadata] * count, keys]
    return pa.record_batch([pa.array(c, f.type) for c, f in zip(columns, DOCUMENT_SCHEMA)], schema=DOCUMENT_SCHEMA)


def read(cache: Cache, keys: list[str]) -> list[str]:
    return [name for key in keys for name in pq.read_table(cache.path(key)).column("document_id").to_pylist()]


def scratch(cache: Cache) -> list[Path]:
    return [path for path in (cache.root / "scratch").rglob("*") if path.is_file()]


def test_rows_come_back_in_order_and_the_object_is_named_by_its_content(writer: Writer, cache: Cache) -> None:
    with writer() as table:
        for start in range(0, 1000, 100):
            table.add(batch(start, 100))
    (key,) = table.keys
    assert read(cache, table.keys) == [str(number) for number in range(1000)]
    assert key == layout.documents(ids.file_digest(cache.path(key)))
    assert pq.read_schema(cache.path(key)).remove_metadata() == DOCUMENT_SCHEMA
    assert (table.rows, scratch(cache)) == (1000, [])


def test_equal_rows_are_one_object_however_they_came(writer: Writer, store: MemoryStore) -> None:
    with writer() as one:
        one.add(batch(0, 50))
    with writer() as other:
        other.add(batch(0, 20))
        other.add(batch(20, 0))
        other.add(batch(20, 30))
    assert one.keys == other.keys
    assert len(list(store.list(""))) == 1


def test_no_rows_are_no_object(writer: Writer, store: MemoryStore) -> None:
    with writer() as table:
        table.add(batch(0, 0))
    assert (table.keys, table.rows, list(store.list(""))) == ([], 0, [])


def test_a_full_object_is_followed_by_another_and_no_batch_is_split(
    writer: Writer, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_TABLE_BYTES", 20_000)
    with writer() as table:
        for start in range(0, 70, 10):
            table.add(batch(start, 10, metadata="x" * 1_000))
    sizes = [pq.read_metadata(cache.path(key)).num_rows for key in table.keys]
    assert sizes == [20, 20, 20, 10]
    assert read(cache, table.keys) == [str(number) for number in range(70)]


def test_row_groups_are_bounded(writer: Writer, cache: Cache) -> None:
    with writer() as table:
        for start in range(0, 40_000, 4_000):
            table.add(batch(start, 4_000))
    metadata = pq.read_metadata(cache.path(table.keys[0]))
    assert max(metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)) <= 16_384


@pytest.mark.parametrize("rows", [5, 20_000])
def test_an_error_leaves_neither_object_nor_file(writer: Writer, store: MemoryStore, cache: Cache, rows: int) -> None:
    with pytest.raises(KeyboardInterrupt), writer() as table:
        table.add(batch(0, rows))
        raise KeyboardInterrupt
    assert (list(store.list("")), scratch(cache)) == ([], [])


def test_chunk_tables_are_written_by_the_same_writer(store: MemoryStore, cache: Cache) -> None:
    rows = [[b"v" * 16], [0], [0], [4], [""], [b"t" * 16], ["text"], [None], [3]]
    chunk = pa.record_batch([pa.array(c, f.type) for c, f in zip(rows, CHUNK_SCHEMA)], schema=CHUNK_SCHEMA)
    with TableWriter(store, cache, CHUNK_SCHEMA, partial(layout.chunks, "spec")) as table:
        table.add(chunk)
    (key,) = table.keys
    assert key.startswith("chunks/spec/")
    assert pq.read_table(cache.path(key)).to_pylist() == chunk.to_pylist()


def test_a_catalog_comes_back_equal_under_its_contents_name(store: MemoryStore, cache: Cache) -> None:
    name = save(store, CATALOG)
    assert load(cache, name) == CATALOG
    assert save(store, CATALOG) == name
    other = save(store, replace(CATALOG, count=11))
    assert other != name and load(cache, other).count == 11


def test_a_catalog_that_is_not_there(cache: Cache) -> None:
    with pytest.raises(MissingError):
        load(cache, "0" * 32)


def test_bytes_of_any_size_are_an_object_and_leave_no_file(store: MemoryStore, cache: Cache) -> None:
    write_bytes(cache, store, "rejections/x.jsonl", b"a\n" * 100_000)
    assert store.read("rejections/x.jsonl") == b"a\n" * 100_000
    assert scratch(cache) == []
