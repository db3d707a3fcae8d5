"""Packs: vectors in Parquet that any reader takes as they are, and the sorted ids beside each. Knows no batch."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from embedfill import ids
from embedfill.ids import IdArray
from embedfill.models.base import Vectors
from embedfill.store import layout
from embedfill.store.base import Store

ROW_GROUP = 1024


def pack_schema(dimensions: int) -> pa.Schema:
    """text_id: 16 bytes; vector: a fixed-size list of float32, as the provider gave it."""
    return pa.schema(
        [pa.field("text_id", ids.ID_TYPE, False), pa.field("vector", pa.list_(pa.float32(), dimensions), False)]
    )


class PackWriter:
    """Streams (ids, vectors) into one Parquet file in row groups of 1,024; without a dictionary, which on vectors
    costs time and wins nothing. The file appears at its path when the context ends without an error."""

    def __init__(self, path: Path, dimensions: int) -> None:
        self.path = path
        self.rows = 0
        self._schema = pack_schema(dimensions)
        self._temp = path.with_name(path.name + ".part")
        self._writer = pq.ParquetWriter(self._temp, self._schema, use_dictionary=False, compression="none")
        self._held: list[tuple[IdArray, Vectors]] = []
        self._held_rows = 0
        self._ids: list[IdArray] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._flush(self._held_rows)
            self._writer.close()
            if kind is None:
                self._temp.replace(self.path)
        finally:
            self._temp.unlink(missing_ok=True)

    def add(self, text_ids: IdArray, vectors: Vectors) -> None:
        """Appends vectors, float32, shape (n, dimensions), and their text ids, shape (n,)."""
        self._held.append((text_ids, vectors))
        self._held_rows += len(text_ids)
        self.rows += len(text_ids)
        if self._held_rows >= ROW_GROUP:
            self._flush(self._held_rows - self._held_rows % ROW_GROUP)

    def sorted_ids(self) -> bytes:
        """All ids, sorted, 16 bytes each: the object that lies beside the pack."""
        return np.sort(np.concatenate([ids.array([]), *self._ids])).tobytes()

    def _flush(self, rows: int) -> None:
        """Writes the first `rows` of what is held, and holds the rest."""
        if not rows:
            return
        text_ids = np.concatenate([held[0] for held in self._held])
        vectors = np.concatenate([held[1] for held in self._held], dtype=np.float32)
        column = pa.FixedSizeListArray.from_arrays(
            pa.array(vectors[:rows].reshape(-1)), type=self._schema.field("vector").type
        )
        batch = pa.record_batch([ids.to_arrow(text_ids[:rows]), column], schema=self._schema)
        self._writer.write_table(pa.Table.from_batches([batch]), row_group_size=ROW_GROUP)
        self._ids.append(text_ids[:rows])
        self._held, self._held_rows = [(text_ids[rows:], vectors[rows:].copy())], self._held_rows - rows


def read_pack(path: Path) -> Iterator[tuple[IdArray, Vectors]]:
    """Streams a pack by row group: ids, shape (n,), and vectors, float32, shape (n, dimensions)."""
    # Not iter_batches: that holds on to much of the file, whatever its settings.
    with pq.ParquetFile(path, pre_buffer=False) as file:
        dimensions = file.schema_arrow.field("vector").type.list_size
        for number in range(file.num_row_groups):
            group = file.read_row_group(number, use_threads=False).combine_chunks()
            vectors: NDArray[np.float32] = group.column("vector").chunk(0).flatten().to_numpy()
            yield ids.from_arrow(group.column("text_id")), vectors.reshape(-1, dimensions)


def row_ids(path: Path) -> IdArray:
    """The text ids of a pack in the order of its rows."""
    return ids.from_arrow(pq.read_table(path, columns=["text_id"]).column("text_id"))


def put_pack(store: Store, space: str, pack: Path, sorted_ids: bytes, at: Callable[[str], None]) -> str:
    """Puts a pack into the store under its content's name, and its ids beside it first. Gives its key; `at` is told of
    the point between the two."""
    key = layout.pack(space, ids.file_digest(pack))
    beside = pack.with_suffix(".ids")
    try:
        beside.write_bytes(sorted_ids)
        store.put_file(layout.pack_ids(key), beside)
    finally:
        beside.unlink(missing_ok=True)
    at("between-ids-and-pack")
    store.put_file(key, pack)
    return key
