"""What a catalog's tables say in the end: the documents that live, and the chunks of their versions. Reads, never
writes. Memory: about 50 bytes a document; texts and metadata stream."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from embedfill import ids
from embedfill.ids import IdArray, IdSet
from embedfill.records import Catalog
from embedfill.store.cache import Cache

_BATCH_ROWS = 16_384
WHOLE = ("document_id", "metadata")


@dataclass(frozen=True, slots=True)
class Live:
    """The documents that live, in table order: their keys, row digests, versions (each shape (n,)) and parts. `rows`
    are their positions in the tables laid end to end."""

    tables: tuple[str, ...]
    rows: NDArray[np.int64]
    keys: IdArray
    digests: IdArray
    versions: IdArray
    part_codes: NDArray[np.int32]
    parts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def in_parts(self, names: Sequence[str]) -> NDArray[np.bool_]:
        """Which documents lie in one of these parts."""
        codes = [code for code, name in enumerate(self.parts) if name in set(names)]
        return np.isin(self.part_codes, codes)

    def select(self, mask: NDArray[np.bool_]) -> "Live":
        return Live(
            self.tables, self.rows[mask], self.keys[mask], self.digests[mask], self.versions[mask],
            self.part_codes[mask], self.parts,
        )  # fmt: skip

    def read(self, cache: Cache, columns: Sequence[str]) -> Iterator[Any]:
        """Streams columns of the live rows, in order."""
        start = 0
        for table in self.tables:
            with pq.ParquetFile(cache.path(table), pre_buffer=False) as file:
                for batch in file.iter_batches(_BATCH_ROWS, columns=list(columns)):
                    at, end = np.searchsorted(self.rows, (start, start + batch.num_rows))
                    if end > at:
                        yield batch.take(pa.array(self.rows[at:end] - start))
                    start += batch.num_rows


class KeyIndex:
    """Finds rows by key: `find` gives each key's row in the array it was made from, and whether it is there."""

    def __init__(self, keys: IdArray) -> None:
        self._order = np.argsort(keys, kind="stable")
        self._sorted = keys[self._order]

    def find(self, keys: IdArray) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        at, found = ids.find(self._sorted, keys)
        return (self._order[at] if len(self._order) else at), found


def load_live(cache: Cache, tables: Sequence[str]) -> Live:
    """The last row of each document in the tables, if it has a version."""
    found = [_read_ids(cache, table) for table in tables]
    keys = np.concatenate([ids.array([]), *(one[0] for one in found)])
    order = np.argsort(keys, kind="stable")
    last = np.ones(len(keys), bool)
    last[:-1] = keys[order][1:] != keys[order][:-1]
    rows = np.sort(order[last])
    versions = np.concatenate([ids.array([]), *(one[2] for one in found)])
    lives = np.concatenate([np.zeros(0, bool), *(one[3] for one in found)])
    rows = rows[lives[rows]]
    digests = np.concatenate([ids.array([]), *(one[1] for one in found)])
    codes, parts = _codes([one[4] for one in found])
    return Live(tuple(tables), rows, keys[rows], digests[rows], versions[rows], codes[rows], parts)


def _read_ids(cache: Cache, key: str) -> tuple[IdArray, IdArray, IdArray, NDArray[np.bool_], Any]:
    table = pq.read_table(cache.path(key), columns=["key", "digest", "version", "part"])
    version = table.column("version")
    lives = version.is_valid().to_numpy(zero_copy_only=False)
    filled = pc.fill_null(version, pa.scalar(b"\0" * ids.ID_BYTES, ids.ID_TYPE))
    part = table.column("part").combine_chunks().dictionary_encode()
    return (
        ids.from_arrow(table.column("key")),
        ids.from_arrow(table.column("digest")),
        ids.from_arrow(filled),
        lives,
        part,
    )


def _codes(columns: Sequence[Any]) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """Dictionary-encoded columns to one array of codes over one list of names."""
    names: dict[str, int] = {}
    codes = [np.zeros(0, np.int32)]
    for column in columns:
        chunk = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        local = np.array([names.setdefault(name, len(names)) for name in chunk.dictionary.to_pylist()], np.int32)
        codes.append(local[chunk.indices.to_numpy(zero_copy_only=False)] if len(chunk) else codes[0])
    return np.concatenate(codes), tuple(names)


def chunk_versions(cache: Cache, key: str) -> IdArray:
    """The document versions that a chunk table holds, sorted."""
    return np.unique(ids.from_arrow(pq.read_table(cache.path(key), columns=["version"]).column("version")))


def chunk_rows(cache: Cache, catalog: Catalog, versions: IdArray, columns: Sequence[str]) -> Iterator[Any]:
    """Streams columns of the chunk rows whose version is in the sorted `versions`, each version once: two runs at
    the same time may have chunked the same document, then the first table serves."""
    served = IdSet()
    for key in catalog.chunks:
        here: list[IdArray] = []
        with pq.ParquetFile(cache.path(key), pre_buffer=False) as file:
            for batch in file.iter_batches(_BATCH_ROWS, columns=list(dict.fromkeys(["version", *columns]))):
                of = ids.from_arrow(batch.column("version"))
                wanted = ids.find(versions, of)[1] & ~served.has(of)
                here.append(np.unique(of[wanted]))
                if wanted.any():
                    yield batch.filter(pa.array(wanted)).select(list(columns))
        if here:
            served.add(np.unique(np.concatenate(here)))


def wanted_texts(cache: Cache, catalog: Catalog, versions: IdArray) -> Iterator[Any]:
    """Every text to be embedded, as often as it stands somewhere: record batches of text_id, text, tokens."""
    for batch in chunk_rows(cache, catalog, versions, ["text_id", "text", "embed", "tokens"]):
        text = pc.coalesce(batch.column("embed"), batch.column("text"))
        yield pa.record_batch(
            [batch.column("text_id"), text, batch.column("tokens")], names=["text_id", "text", "tokens"]
        )


def places(cache: Cache, catalog: Catalog, live: Live) -> Iterator[Any]:
    """Every chunk of every live document: text_id, document (its number in `live`), ordinal, start, end, text.
    Documents of equal content share chunk rows; each gets places of its own."""
    by_version = np.argsort(live.versions, kind="stable")
    versions = live.versions[by_version]
    columns = ["version", "text_id", "ordinal", "start", "end", "text"]
    for batch in chunk_rows(cache, catalog, np.unique(versions), columns):
        of = ids.from_arrow(batch.column("version"))
        first, end = np.searchsorted(versions, of, "left"), np.searchsorted(versions, of, "right")
        counts = end - first
        rows = np.repeat(np.arange(len(of)), counts)
        nth = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        documents = by_version[np.repeat(first, counts) + nth]
        taken = batch.select(columns[1:]).take(pa.array(rows))
        yield pa.record_batch(
            [taken.column(0), pa.array(documents, pa.int64()), *taken.columns[1:]],
            names=["text_id", "document", "ordinal", "start", "end", "text"],
        )


def first_places(cache: Cache, catalog: Catalog, wanted: IdSet) -> dict[bytes, tuple[str, str]]:
    """For each wanted text that stands somewhere: the id of the first document that holds it, and that one's file."""
    live = load_live(cache, catalog.documents)
    found: dict[bytes, int] = {}
    for batch in places(cache, catalog, live) if len(wanted) else ():
        text_ids = ids.from_arrow(batch.column("text_id"))
        mask = wanted.has(text_ids)
        numbers = batch.column("document").to_numpy()[mask].tolist()
        for text_id, number in zip(ids.tolist(text_ids[mask]), numbers, strict=True):
            found.setdefault(text_id, number)
    names = dict[int, str]()
    sought, start = set(found.values()), 0
    for batch in live.read(cache, ["document_id"]) if found else ():
        names |= {
            number: batch.column(0)[number - start].as_py() for number in sought if start <= number < start + len(batch)
        }
        start += len(batch)
    return {text_id: (names[number], live.parts[live.part_codes[number]]) for text_id, number in found.items()}


def corpus_rejections(cache: Cache, catalog: Catalog) -> bytes:
    """The catalog's rejected corpus rows, one JSON object a line."""
    return cache.read(catalog.rejections) if catalog.rejections else b""
