"""Arrow columns to Python values: ids, texts and metadata scalars. Does not know of files or documents.

Whole columns are converted at once; only a column with bytes that are not UTF-8 is gone through value by value.
"""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

_UNITS_PER_S = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


class Undecodable:
    """Stands where a string was not UTF-8."""


UNDECODABLE = Undecodable()


def is_text(kind: pa.DataType) -> bool:
    """Whether texts can be read from a column of this type (a column of nothing but nulls has none of its own)."""
    kind = _plain_type(kind)
    return _is_string(kind) or bool(types.is_null(kind))


def is_id(kind: pa.DataType) -> bool:
    """Whether ids can be read from a column of this type."""
    return is_text(kind) or bool(types.is_integer(_plain_type(kind)))


def is_scalar(kind: pa.DataType) -> bool:
    """Whether a column of this type can be carried as metadata."""
    kind = _plain_type(kind)
    numeric = types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)
    return (
        is_text(kind) or _is_bytes(kind) or bool(numeric or (types.is_temporal(kind) and not types.is_interval(kind)))
    )


def strings(column: pa.Array) -> list[Any]:
    """A column of ids or texts to `str`, None or UNDECODABLE; integers in decimal."""
    column = _plain(column)
    if types.is_integer(column.type):
        column = column.cast(pa.string())
    try:
        values: list[Any] = column.to_pylist()
    except UnicodeDecodeError:
        values = [_decoded(value) for value in column.cast(pa.large_binary()).to_pylist()]
    return values


def scalars(column: pa.Array) -> list[Any]:
    """A metadata column to JSON values, or UNDECODABLE.

    Dates and times become ISO 8601 (UTC, with a Z, where they have a zone), durations seconds, decimals their digits,
    bytes hexadecimal; NaN and the infinities, which JSON does not have, become None.
    """
    column = _plain(column)
    if _is_string(column.type):
        return strings(column)
    values: list[Any] = _jsonable(column).to_pylist()
    return [None if value is None else value.hex() for value in values] if _is_bytes(column.type) else values


def _jsonable(column: pa.Array) -> pa.Array:
    """Numbers and moments as Arrow types that become JSON scalars; others as they are."""
    kind = column.type
    if types.is_floating(kind):
        numbers = column.cast(pa.float64())
        return pc.if_else(pc.is_finite(numbers), numbers, None)
    if types.is_timestamp(kind):
        return _moments(column)
    if types.is_duration(kind):
        return pc.divide(column.cast(pa.int64()).cast(pa.float64(), safe=False), _UNITS_PER_S[kind.unit])
    if types.is_date(kind) or types.is_time(kind) or types.is_decimal(kind):
        return column.cast(pa.string())
    return column


def _moments(column: pa.Array) -> pa.Array:
    # Arrow's own text of a zoned timestamp needs a time zone database, which a container may lack: take the UTC value.
    zone = "Z" if column.type.tz else ""
    text = column.view(pa.timestamp(column.type.unit)).cast(pa.string())
    text = pc.replace_substring(pc.replace_substring_regex(text, r"\.0+$", ""), " ", "T")
    return pc.binary_join_element_wise(text, zone, "")


def _plain(column: pa.Array) -> pa.Array:
    """A column without the dictionary and extension types around its values."""
    if isinstance(column, pa.ExtensionArray):
        return _plain(column.storage)
    return _plain(column.dictionary_decode()) if types.is_dictionary(column.type) else column


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if isinstance(kind, pa.BaseExtensionType):
        return _plain_type(kind.storage_type)
    return _plain_type(kind.value_type) if types.is_dictionary(kind) else kind


def _is_string(kind: pa.DataType) -> bool:
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    plain = types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)
    return bool(plain or types.is_fixed_size_binary(kind))


def _decoded(value: bytes | None) -> str | Undecodable | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return UNDECODABLE
