"""From row numbers to the places in documents where their texts stand: written while they stream by, read memory-mapped.

    documents.arrow     document_id, metadata (JSON)            in the order of the documents stream
    places.arrow        document, ordinal, start, end, text     in the order of the places stream
    row_offsets.npy     row r has entries [offsets[r], offsets[r + 1]) of the next two
    row_places.npy      the place: its position in places.arrow
    row_documents.npy   its document's rank among all document ids in their order: what equal scores are sorted by

Equal texts share a row and keep their places. Knows no vectors. Both Arrow files are uncompressed, in record batches of
one length, so that a position tells its batch. Writing takes about 28 bytes a place, 24 bytes a row and the document ids.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from embedfill import ids
from embedfill.errors import SearchIndexError
from embedfill.ids import IdArray
from embedfill.index.ranker import need
from embedfill.index.table import FixedTable, FixedWriter

DOCUMENTS_FILE = "documents.arrow"
PLACES_FILE = "places.arrow"
OFFSETS_FILE = "row_offsets.npy"
ROW_PLACES_FILE = "row_places.npy"
ROW_DOCUMENTS_FILE = "row_documents.npy"
FILES = (DOCUMENTS_FILE, PLACES_FILE, OFFSETS_FILE, ROW_PLACES_FILE, ROW_DOCUMENTS_FILE)

_DOCUMENTS = pa.schema({"document_id": pa.large_string(), "metadata": pa.large_string()})
_PLACES = pa.schema(
    {"document": pa.int64(), "ordinal": pa.int32(), "start": pa.int64(), "end": pa.int64(), "text": pa.large_string()}
)

Ints = NDArray[np.signedinteger[Any]]


@dataclass(frozen=True, slots=True)
class WrittenPlaces:
    """The files by name, how many documents and places they hold, and how many places had no row and were left out."""

    files: dict[str, Path]
    documents: int
    places: int
    left_out: int


@dataclass(frozen=True, slots=True)
class Place:
    """One place, with its document."""

    document_id: str
    ordinal: int
    start: int
    end: int
    text: str
    metadata: Mapping[str, Any]


def write_places(
    workdir: Path, row_ids: IdArray, documents: Iterable[pa.RecordBatch], places: Iterable[pa.RecordBatch]
) -> WrittenPlaces:
    """Writes the five files of the module's docstring into `workdir`.

    `row_ids` are the text ids in row order. `documents` has columns document_id and metadata; `places` has text_id,
    document (a position in the documents stream), ordinal, start, end, text. Raises SearchIndexError.
    """
    files = {name: workdir / name for name in FILES}
    ranks = _write_documents(files[DOCUMENTS_FILE], documents)
    rows, of, left_out = _write_places(files[PLACES_FILE], row_ids, len(ranks), places)
    of = ranks[of] if len(of) else of
    order = np.lexsort((of, rows))  # stable: places of one row in one document stay in their order
    counts = np.bincount(rows, minlength=len(row_ids)) if len(rows) else np.zeros(len(row_ids), np.int64)
    np.save(files[OFFSETS_FILE], np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))
    np.save(files[ROW_PLACES_FILE], order.astype(_narrow(len(order))))
    np.save(files[ROW_DOCUMENTS_FILE], of[order])
    return WrittenPlaces(files, len(ranks), len(rows), left_out)


class Places:
    """The written files, memory-mapped. Raises SearchIndexError naming a file that is missing or damaged."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._offsets = _load(files, OFFSETS_FILE)
        self._positions = _load(files, ROW_PLACES_FILE)
        self._ranks = _load(files, ROW_DOCUMENTS_FILE)
        self._places = FixedTable(need(files, PLACES_FILE))
        self._documents = FixedTable(need(files, DOCUMENTS_FILE))
        self._names = files
        self.rows = len(self._offsets) - 1
        self.documents = len(self._documents)
        self._check()

    def __len__(self) -> int:
        return len(self._positions)

    def of_rows(self, rows: Ints) -> tuple[Ints, Ints, Ints]:
        """All places of some rows: which of `rows` each belongs to (an index), its position, its document's rank."""
        first = np.asarray(self._offsets[rows])
        counts = np.asarray(self._offsets[rows + 1]) - first
        which = np.repeat(np.arange(len(rows)), counts)
        entries = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts) + first[which]
        return which, np.asarray(self._positions[entries]), np.asarray(self._ranks[entries])

    def read(self, positions: Sequence[int]) -> list[Place]:
        """The places at these positions."""
        found = []
        for document, ordinal, start, end, text in self._places.read(positions):
            ((document_id, metadata),) = self._documents.read([document])
            found.append(Place(document_id, ordinal, start, end, text, self._parsed(document_id, metadata)))
        return found

    def _parsed(self, document_id: str, metadata: str | None) -> Mapping[str, Any]:
        try:
            value = orjson.loads(metadata or "{}")
        except orjson.JSONDecodeError as error:
            message = f"{self._names[DOCUMENTS_FILE]}: the metadata of document {document_id!r} is not JSON"
            raise SearchIndexError(message, "build the index again") from error
        return value if isinstance(value, dict) else {}

    def _check(self) -> None:
        agree = len(self._positions) == len(self._ranks) == len(self._places)
        if self.rows < 0 or not agree or self._offsets[-1] != len(self._positions):
            raise SearchIndexError(
                f"{self._names[OFFSETS_FILE]}: does not fit {PLACES_FILE} ({len(self._places):,} places)",
                "build the index again",
            )


def _write_documents(path: Path, documents: Iterable[pa.RecordBatch]) -> Ints:
    """Writes the documents; the rank of each one's id."""
    names = []
    with FixedWriter(path, _DOCUMENTS) as writer:
        for batch in documents:
            writer.write(batch)
            names.append(batch.column("document_id").cast(pa.large_string()))
    column = pa.chunked_array(names, pa.large_string())
    order = pc.sort_indices(column).to_numpy()
    ranks = np.empty(len(order), _narrow(len(order)))
    ranks[order] = np.arange(len(order))
    return ranks


def _write_places(
    path: Path, row_ids: IdArray, documents: int, places: Iterable[pa.RecordBatch]
) -> tuple[Ints, Ints, int]:
    """Writes the places that have a row: the row of each, its document, and how many had none."""
    by_id = np.argsort(row_ids, kind="stable")
    sorted_ids = row_ids[by_id]
    rows: list[Ints] = [np.zeros(0, _narrow(len(row_ids)))]
    of: list[Ints] = [np.zeros(0, _narrow(documents))]
    left_out = 0
    with FixedWriter(path, _PLACES) as writer:
        for batch in places:
            at, found = ids.find(sorted_ids, ids.from_arrow(batch.column("text_id")))
            kept = batch.filter(pa.array(found))
            left_out += len(batch) - len(kept)
            rows.append(by_id[at[found]].astype(rows[0].dtype))
            of.append(_documents_of(kept, documents).astype(of[0].dtype))
            writer.write(kept)
    return np.concatenate(rows), np.concatenate(of), left_out


def _documents_of(batch: pa.RecordBatch, documents: int) -> NDArray[np.int64]:
    of: NDArray[np.int64] = batch.column("document").to_numpy()
    if len(of) and not 0 <= of.min() <= of.max() < documents:
        raise SearchIndexError(f"a place names document {of.max():,} of {documents:,}")
    return of


def _narrow(count: int) -> type[np.signedinteger[Any]]:
    """The smaller integer that can count so far."""
    return np.int32 if count <= np.iinfo(np.int32).max else np.int64


def _load(files: Mapping[str, Path], name: str) -> Ints:
    path = need(files, name)
    try:
        return np.load(path, mmap_mode="r")  # type: ignore[no-any-return]
    except (ValueError, OSError, EOFError) as error:
        raise SearchIndexError(f"{path}: not a readable array: {error}", "build the index again") from error
