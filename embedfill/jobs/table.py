"""Rows of Parquet files to requests, through a prompt template; only the columns that it names, streaming."""

import glob
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import types

from embedfill.errors import CorpusError, UsageError
from embedfill.jobs.endpoints import ENDPOINTS
from embedfill.jobs.prompt import Prompt
from embedfill.jobs.request import Request, fault, rejection
from embedfill.records import Rejection

_ROWS = 2048
_BUFFER = 1 << 20
Text = str | bytes | None
_AGAIN = "write the file again, or leave it out"


def find_tables(patterns: Sequence[str]) -> list[Path]:
    """The files that paths and patterns name, each once; those of a pattern in the order of their names. Raises
    UsageError for one that names nothing."""
    found: dict[Path, None] = {}
    for pattern in patterns:
        there = [pattern] if Path(pattern).is_file() else sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207
        files = [Path(name) for name in there if Path(name).is_file()]
        if not files:
            raise UsageError(f"{pattern}: no such file", "give Parquet files, or a pattern in quotes")
        found |= dict.fromkeys(files)
    return list(found)


def read_table(path: Path, prompt: Prompt, max_bytes: int) -> Iterator[Request | Rejection]:
    """The rows of a file in order. Raises CorpusError where it is no Parquet file or has no such column."""
    names = list(dict.fromkeys([prompt.id_column, *prompt.columns]))
    try:
        with pq.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False) as file:
            _check(path, file.schema_arrow, names)
            first = 1
            for batch in file.iter_batches(_ROWS, columns=names):
                yield from _rows(str(path), prompt, batch, first, max_bytes)
                first += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        words = str(error).strip().partition("\n")[0]
        raise CorpusError(str(path), f"cannot be read as Parquet ({words})", _AGAIN) from error


def _rows(file: str, prompt: Prompt, batch: Any, first: int, max_bytes: int) -> Iterator[Request | Rejection]:  # noqa: ANN401
    columns = {name: _strings(batch.column(name)) for name in batch.schema.names}
    bad = _unusable(columns)
    shown = {name: [value if isinstance(value, str) else "" for value in values] for name, values in columns.items()}
    endpoint = ENDPOINTS[prompt.endpoint]
    bodies = prompt.fill(shown, batch.num_rows)
    for at, (name, text) in enumerate(zip(shown[prompt.id_column], bodies, strict=True)):
        body = orjson.loads(text)
        problem = bad.get(at) or fault(name, body, endpoint)
        if problem is None and len(text) > max_bytes:
            problem = ("too_large", f"its body is longer than {max_bytes:,} bytes: shorten its columns")
        if problem:
            yield rejection(file, first + at, name, *problem)
        else:
            yield Request(first + at, name, body, text)


def _unusable(columns: Mapping[str, list[Text]]) -> dict[int, tuple[str, str]]:
    """Rows with a null, or with bytes that are not UTF-8."""
    found: dict[int, tuple[str, str]] = {}
    for name, values in columns.items():
        for row, value in enumerate(values):
            if value is None:
                found[row] = ("null_value", f"column {name!r} is null: fill it, or leave the row out")
            elif not isinstance(value, str):
                found[row] = ("invalid_utf8", f"column {name!r} holds bytes that are not UTF-8: write it again")
    return found


def _strings(column: Any) -> list[Text]:  # noqa: ANN401 - pyarrow has no types
    """The values of a column as text: numbers in decimal, moments in ISO 8601 (UTC with a Z where they have a zone).
    What is not UTF-8 stays bytes."""
    kind = column.type
    if types.is_dictionary(kind):
        return _strings(column.dictionary_decode())
    if types.is_timestamp(kind) and kind.tz:
        plain = pc.replace_substring_regex(column.view(pa.timestamp(kind.unit)).cast(pa.string()), r"\.0+$", "")
        column = pc.binary_join_element_wise(pc.replace_substring(plain, " ", "T"), "Z", "")
    column = column.cast(pa.string())
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return [_decoded(value) for value in column.cast(pa.binary()).to_pylist()]


def _decoded(value: bytes | None) -> Text:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return value


def _check(path: Path, schema: Any, names: Sequence[str]) -> None:  # noqa: ANN401
    for name in names:
        if schema.names.count(name) != 1:
            there = ", ".join(schema.names)
            raise CorpusError(
                str(path), f"has no column {name!r} (it has: {there})", "name its columns in the template"
            )
        kind = schema.field(name).type
        kind = kind.value_type if types.is_dictionary(kind) else kind
        if types.is_nested(kind) or types.is_binary(kind) or types.is_large_binary(kind) or types.is_duration(kind):
            raise CorpusError(
                str(path), f"column {name!r} is {kind}, which has no text of its own", "cast it to a string"
            )
