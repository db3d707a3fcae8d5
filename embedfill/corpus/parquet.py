"""Reads the documents of one Parquet file, streaming: only the columns named, a batch of rows at a time.

A row without an id or a text, or with bytes that are not UTF-8, becomes a rejection; nothing else is left out. Two
documents of one id are not noticed here: that takes the whole corpus.
"""

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from embedfill.corpus import columns
from embedfill.corpus.columns import UNDECODABLE
from embedfill.corpus.parts import Part, check_unchanged, fingerprint, unreadable
from embedfill.corpus.spec import CorpusSpec
from embedfill.errors import CorpusError
from embedfill.records import Document, Rejection, Scalar, Source

_BATCH_BYTES = 32 << 20  # by the file's own account: long documents come in smaller batches
_BUFFER_BYTES = 1 << 20  # read ahead per column; without it a whole column chunk is read at once
_BETWEEN = "\n\n"
_AGAIN = "write the file again, or leave it out of corpus.paths"


@dataclass(frozen=True, slots=True)
class Rows:
    """What `rows` rows of a file came to; every row is in one of the two lists."""

    documents: list[Document]
    rejections: list[Rejection]
    rows: int


def read_part(part: Part, spec: CorpusSpec, batch_rows: int = 2048) -> Iterator[Rows]:
    """The rows of a file in order, at most `batch_rows` at a time.

    Raises CorpusError, which names the file: it is not a whole Parquet file, has no such column, or one of a type that
    cannot be read as what it is configured to be, or was changed since it was listed.
    """
    fingerprint(part)  # says what is wrong with a file that is cut short, where pyarrow's words are about magic bytes
    with _opened(part) as file, _damage(part):
        parquet = pq.ParquetFile(file, buffer_size=_BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True)
        _check_columns(part, spec, parquet.schema_arrow)
        batches = parquet.iter_batches(_batch_rows(parquet.metadata, batch_rows), columns=spec.columns)
        first = 0
        for batch in batches:
            with _collector_paused():
                rows = _rows(part.name, spec, batch, first)
            yield rows
            first += batch.num_rows
        check_unchanged(part, file)
    if first != parquet.metadata.num_rows:
        raise CorpusError(part.name, f"has {first} rows, not the {parquet.metadata.num_rows} it says", _AGAIN)


def count_rows(part: Part) -> int:
    """How many rows a file says it has. Raises CorpusError."""
    with _opened(part) as file, _damage(part):
        return int(pq.read_metadata(file).num_rows)


@contextmanager
def _opened(part: Part) -> Iterator[BinaryIO]:
    try:
        file = part.path.open("rb")
    except OSError as error:
        raise unreadable(part.name, error) from None
    with file:
        check_unchanged(part, file)
        yield file


@contextmanager
def _damage(part: Part) -> Iterator[None]:
    """Turns what pyarrow says of a damaged file into an error that names the file."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        words = str(error).strip().partition("\n")[0] or type(error).__name__
        raise CorpusError(part.name, f"is damaged, or not Parquet as it should be ({words})", _AGAIN) from error


@contextmanager
def _collector_paused() -> Iterator[None]:
    # Thousands of small objects, none in a cycle, at once: looking for cycles among them takes longer than making them.
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _check_columns(part: Part, spec: CorpusSpec, schema: pa.Schema) -> None:
    for name in spec.columns:
        if (count := schema.names.count(name)) != 1:
            there = ", ".join(schema.names)
            what = f"has no column {name!r}" if count == 0 else f"has {count} columns called {name!r}"
            raise CorpusError(part.name, f"{what} (it has: {there})", "name its columns in the [corpus] table")
    _check_type(part, schema, [spec.id_column], columns.is_id, "an id: a string or an integer")
    _check_type(part, schema, spec.text_columns, columns.is_text, "text: a string")
    _check_type(part, schema, (*spec.metadata, *spec.fields), columns.is_scalar, "metadata: not a plain type")


def _check_type(part: Part, schema: pa.Schema, names: Sequence[str], fits: Any, what: str) -> None:  # noqa: ANN401
    for name in names:
        kind = schema.field(name).type
        if not fits(kind):
            raise CorpusError(part.name, f"column {name!r} is {kind}, which cannot be {what}", "cast it to a string")


def _batch_rows(metadata: pq.FileMetaData, most: int) -> int:
    """How many rows at once keep the values of a batch near _BATCH_BYTES, going by the widest row group.

    Columns that are not read count too: sizes by column would need statistics that, damaged, end the process.
    """
    groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
    widest = max((group.total_byte_size / max(group.num_rows, 1) for group in groups), default=0.0)
    return max(1, min(most, int(_BATCH_BYTES / max(widest, 1.0))))


def _rows(file: str, spec: CorpusSpec, batch: pa.RecordBatch, first: int) -> Rows:
    """One batch of a file, whose first row is number `first`."""
    ids = columns.strings(batch.column(spec.id_column))
    texts = [columns.strings(batch.column(name)) for name in spec.text_columns]
    carried = {name: columns.scalars(batch.column(name)) for name in dict.fromkeys((*spec.metadata, *spec.fields))}
    bad = _undecodable({spec.id_column: ids, **dict(zip(spec.text_columns, texts)), **carried})
    joined = texts[0] if len(texts) == 1 else [_join(parts) for parts in zip(*texts)]
    metadata = _records({name: carried[name] for name in spec.metadata}, len(ids))
    fields = _records({name: [_field(value) for value in carried[name]] for name in spec.fields}, len(ids))
    rows = Rows([], [], len(ids))
    for at, (key, text, about, named) in enumerate(zip(ids, joined, metadata, fields)):
        source = Source(file, first + at)
        if key and text and at not in bad and not text.isspace():
            rows.documents.append(Document(key, text, about, named, source))
        else:
            rows.rejections.append(_rejection(spec, source, key, text, bad.get(at)))
    return rows


def _undecodable(values: Mapping[str, list[Any]]) -> dict[int, str]:
    """Rows with bytes that are not UTF-8, and the column that they stand in."""
    bad: dict[int, str] = {}
    for name, column in values.items():
        if UNDECODABLE in column:
            bad.update((row, name) for row, value in enumerate(column) if value is UNDECODABLE)
    return bad


def _join(parts: tuple[Any, ...]) -> str | None:
    """The texts of a row that are not blank, a blank line between them; None if all are null."""
    there = [part for part in parts if isinstance(part, str)]
    return _BETWEEN.join(part for part in there if part and not part.isspace()) if there else None


def _records(values: Mapping[str, list[Any]], rows: int) -> list[dict[str, Any]]:
    if not values:
        return [{} for _ in range(rows)]
    return [dict(zip(values, row)) for row in zip(*values.values())]


def _field(value: Scalar) -> str:
    return "" if value is None else str(value)


def _rejection(spec: CorpusSpec, source: Source, key: Any, text: Any, bad: str | None) -> Rejection:  # noqa: ANN401
    document_id = key if isinstance(key, str) and key else None
    if bad is not None:
        return Rejection("invalid_utf8", f"column {bad!r} holds bytes that are not UTF-8", document_id, source)
    if not key:
        what = "null" if key is None else "empty"
        return Rejection("null_id", f"the id (column {spec.id_column!r}) is {what}", None, source)
    where = ", ".join(map(repr, spec.text_columns))
    if text is None:
        return Rejection("null_text", f"the text (column {where}) is null", document_id, source)
    return Rejection("empty_text", f"the text (column {where}) is empty or only white space", document_id, source)
