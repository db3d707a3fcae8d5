"""Arrow IPC files whose record batches all have one length, for reading single rows at any position. Not compressed."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any

import pyarrow as pa

from embedfill.errors import SearchIndexError

BATCH_ROWS = 2_048

_BATCHES_KEPT = 1_024  # views into the mapped file, not copies
_KEY = b"batch_rows"


class FixedWriter:
    """Writes record batches of any length as batches of `BATCH_ROWS` rows (the last one may be shorter)."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema.with_metadata({_KEY: str(BATCH_ROWS).encode()})
        self._sink = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._sink, self._schema)
        self._waiting: list[Any] = []
        self._count = 0

    def __enter__(self) -> "FixedWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None and self._count:
            self._put(self._table())
        self._writer.close()
        self._sink.close()

    def write(self, batch: pa.RecordBatch) -> None:
        """Columns are taken by name and cast to the schema."""
        table = pa.Table.from_batches([batch]).select(self._schema.names).cast(self._schema)
        self._waiting.append(table)
        self._count += len(table)
        if self._count >= BATCH_ROWS:
            table = self._table()
            whole = len(table) - len(table) % BATCH_ROWS
            for at in range(0, whole, BATCH_ROWS):
                self._put(table.slice(at, BATCH_ROWS))
            self._waiting = [table.slice(whole)]
            self._count = len(table) - whole

    def _table(self) -> pa.Table:
        return pa.concat_tables(self._waiting)

    def _put(self, table: pa.Table) -> None:
        # large_string columns have 64-bit offsets, so that a table always combines to one batch
        self._writer.write_batch(table.combine_chunks().to_batches()[0])


class FixedTable:
    """Reads single rows of such a file through a memory map; safe in several threads. Raises SearchIndexError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = Lock()
        try:
            self._reader = pa.ipc.open_file(pa.memory_map(str(path)))
            self._length = int((self._reader.schema.metadata or {})[_KEY])
            self._columns = lru_cache(_BATCHES_KEPT)(self._get)
            self._rows = self._count()
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            raise self._damaged(error) from error

    def __len__(self) -> int:
        return self._rows

    def read(self, positions: Sequence[int]) -> Iterator[tuple[Any, ...]]:
        """The rows at these positions, as Python values in the order of the columns."""
        for position in positions:
            number, row = divmod(position, self._length)
            try:
                yield tuple(column[row].as_py() for column in self._columns(number))
            except (pa.ArrowException, OSError, UnicodeDecodeError, ValueError, IndexError) as error:
                raise self._damaged(error) from error

    def _get(self, number: int) -> list[Any]:
        with self._lock:
            columns: list[Any] = self._reader.get_batch(number).columns
            return columns

    def _count(self) -> int:
        batches: int = self._reader.num_record_batches
        return (batches - 1) * self._length + len(self._get(batches - 1)[0]) if batches else 0

    def _damaged(self, error: Exception) -> SearchIndexError:
        return SearchIndexError(f"{self._path}: not a readable table: {error}", "build the index again")
