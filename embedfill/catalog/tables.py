"""Document and chunk tables in the store: schemas, a writer that starts a new object every 64 MB, the catalog object.

A document row names the version of its document; the chunk rows of a version lie in one table, in order. A document
row without a version says that the document is gone.
"""

import os
import secrets
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from embedfill import ids
from embedfill.records import Catalog
from embedfill.store import layout
from embedfill.store.base import Store
from embedfill.store.cache import Cache

DOCUMENT_SCHEMA = pa.schema(
    [
        pa.field("key", ids.ID_TYPE, False),  # hash of document_id
        pa.field("document_id", pa.string(), False),
        pa.field("version", ids.ID_TYPE, True),  # null: the document is gone
        pa.field("part", pa.string(), False),
        pa.field("metadata", pa.string(), False),  # a JSON object
        pa.field("digest", ids.ID_TYPE, False),  # of version, part and metadata: equal means nothing changed
    ]
)
_TABLE_BYTES = 64_000_000
_GROUP_ROWS = 16_384


class TableWriter:
    """Streams record batches into Parquet objects of about 64 MB, named by their content. A batch is never split, so
    the rows of one document stay in one table. `keys` are the objects written, once the context has ended."""

    def __init__(self, store: Store, cache: Cache, schema: pa.Schema, key: Callable[[str], str]) -> None:
        self.keys: list[str] = []
        self.rows = 0
        self._store = store
        self._schema = schema
        self._key = key
        self._path = cache.scratch("tables") / f"{os.getpid()}-{secrets.token_hex(6)}.parquet"
        self._writer: Any = None
        self._held: list[Any] = []
        self._held_rows = 0
        self._bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
            elif self._writer is not None:
                self._writer.close()
        finally:
            self._path.unlink(missing_ok=True)

    def add(self, batch: Any) -> None:  # noqa: ANN401 - pyarrow has no types
        if not batch.num_rows:
            return
        self._held.append(batch)
        self._held_rows += batch.num_rows
        self._bytes += batch.nbytes
        self.rows += batch.num_rows
        if self._bytes >= _TABLE_BYTES:
            self._finish()
        elif self._held_rows >= _GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._held:
            if self._writer is None:
                self._writer = pq.ParquetWriter(
                    self._path,
                    self._schema,
                    compression="zstd",
                    use_dictionary=["part"] if "part" in self._schema.names else False,
                )
            self._writer.write_table(pa.Table.from_batches(self._held, self._schema), row_group_size=_GROUP_ROWS)
            self._held, self._held_rows = [], 0

    def _finish(self) -> None:
        self._flush()
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            key = self._key(ids.file_digest(self._path))
            self._store.put_file(key, self._path)
            self.keys.append(key)
            self._bytes = 0


def save(store: Store, catalog: Catalog) -> str:
    """Writes a catalog under its content's name, which it returns."""
    data = ids.canonical(asdict(catalog))
    name = ids.digest_hex("catalog", data)
    store.create(layout.catalog(name), data)
    return name


def load(cache: Cache, name: str) -> Catalog:
    """The catalog of that name. Raises MissingError."""
    value = cache.json(layout.catalog(name))
    lists = {key: tuple(value[key]) for key in ("documents", "chunks", "conflicted")}
    return Catalog(**{**value, **lists})


def write_bytes(cache: Cache, store: Store, key: str, data: bytes) -> None:
    """Puts bytes of any size as a bulk object. `key` must be named after them."""
    path: Path = cache.scratch("tables") / f"{os.getpid()}-{secrets.token_hex(6)}.bin"
    try:
        path.write_bytes(data)
        store.put_file(key, path)
    finally:
        path.unlink(missing_ok=True)
