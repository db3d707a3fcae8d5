"""Arrow columns of every plain type become JSON values; what is not plain is known as such."""

import datetime
import decimal
import uuid
from typing import Any

import orjson
import pyarrow as pa
import pytest

from embedfill.corpus.columns import UNDECODABLE, is_id, is_scalar, is_text, scalars, strings

UTC = datetime.UTC
DAY = datetime.date(2024, 2, 29)
NOON = datetime.datetime(2024, 2, 29, 12, 30, 15)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        (pa.array([1, None, -3], pa.int8()), [1, None, -3]),
        (pa.array([2**64 - 1], pa.uint64()), [2**64 - 1]),
        (pa.array([0.5, float("nan"), float("inf"), None]), [0.5, None, None, None]),
        (pa.array([0.5, float("nan")], pa.float32()), [0.5, None]),
        (pa.array([0.5, None], pa.float16()), [0.5, None]),
        (pa.array([True, None, False]), [True, None, False]),
        (pa.array(["a", None, "ü\0"]), ["a", None, "ü\0"]),
        (pa.array(["a", None], pa.large_string()), ["a", None]),
        (pa.array(["a", None], pa.string_view()), ["a", None]),
        (pa.array(["a", None, "a"]).dictionary_encode(), ["a", None, "a"]),
        (pa.array([7, None]).dictionary_encode(), [7, None]),
        (pa.array([None, None]), [None, None]),
        (pa.array([DAY, None]), ["2024-02-29", None]),
        (pa.array([DAY], pa.date64()), ["2024-02-29"]),
        (pa.array([NOON, None], pa.timestamp("us")), ["2024-02-29T12:30:15", None]),
        (pa.array([NOON], pa.timestamp("s")), ["2024-02-29T12:30:15"]),
        (pa.array([NOON.replace(microsecond=1500)], pa.timestamp("ms")), ["2024-02-29T12:30:15.001"]),
        (pa.array([1], pa.timestamp("ns")), ["1970-01-01T00:00:00.000000001"]),
        (pa.array([NOON.replace(tzinfo=UTC), None], pa.timestamp("us", "UTC")), ["2024-02-29T12:30:15Z", None]),
        (pa.array([NOON.replace(tzinfo=UTC)], pa.timestamp("s", "Europe/Paris")), ["2024-02-29T12:30:15Z"]),
        (pa.array([datetime.time(1, 2, 3), None]), ["01:02:03.000000", None]),
        (pa.array([1], pa.time32("s")), ["00:00:01"]),
        (pa.array([decimal.Decimal("1.50"), None]), ["1.50", None]),
        (pa.array([decimal.Decimal("-123456789012345678901234567890.12")]), ["-123456789012345678901234567890.12"]),
        (pa.array([datetime.timedelta(minutes=1, milliseconds=500), None]), [60.5, None]),
        (pa.array([3], pa.duration("ns")), [3e-9]),
        (pa.array([b"\xff\0", None]), ["ff00", None]),
        (pa.array([b"ab"], pa.binary(2)), ["6162"]),
        (pa.array([b"ab"], pa.large_binary()), ["6162"]),
        (pa.array([uuid.UUID(int=1).bytes], pa.uuid()), ["0" * 31 + "1"]),
    ],
)
def test_metadata_of_plain_types(column: pa.Array, values: list[Any]) -> None:
    assert is_scalar(column.type)
    found = scalars(column)
    assert found == values
    assert orjson.loads(orjson.dumps(found)) == values
    assert scalars(column.slice(1)) == values[1:]


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.int8()),
        pa.list_(pa.float32(), 3),
        pa.large_list(pa.string()),
        pa.struct([("a", pa.int8())]),
        pa.map_(pa.string(), pa.string()),
        pa.dictionary(pa.int8(), pa.list_(pa.int8())),
        pa.month_day_nano_interval(),
    ],
)
def test_nested_types_are_not_plain(kind: pa.DataType) -> None:
    assert not is_scalar(kind)
    assert not is_text(kind)
    assert not is_id(kind)


STRINGS = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string()), pa.null()]


def test_what_texts_and_ids_may_be() -> None:
    integers = [pa.int8(), pa.uint64(), pa.dictionary(pa.int8(), pa.int64())]
    others = [pa.float64(), pa.bool_(), pa.binary(), pa.date32(), pa.decimal128(5), pa.uuid()]
    assert all(is_text(kind) and is_id(kind) for kind in STRINGS)
    assert all(is_id(kind) and not is_text(kind) for kind in integers)
    assert not any(is_id(kind) or is_text(kind) for kind in others)


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint8(), pa.int64(), pa.uint64(), pa.dictionary(pa.int8(), pa.int32())])
def test_integer_ids_are_written_in_decimal(kind: pa.DataType) -> None:
    assert strings(pa.array([7, None, 0], kind)) == ["7", None, "0"]
    assert strings(pa.array([2**64 - 1], pa.uint64())) == [str(2**64 - 1)]
    assert strings(pa.array([-(2**63)], pa.int64())) == [str(-(2**63))]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_only_the_value_that_is_not_utf8_is_undecodable(kind: pa.DataType) -> None:
    surrogate = b"\xed\xa0\x80"  # half of a pair, as some writers encode it
    binary = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary(), pa.string_view(): pa.binary_view()}[kind]
    column = pa.array([b"ok", b"\xff", None, "日本".encode(), surrogate, b""], binary).view(kind)
    assert strings(column) == scalars(column) == ["ok", UNDECODABLE, None, "日本", UNDECODABLE, ""]
    assert strings(column.slice(2, 2)) == [None, "日本"]
    if kind != pa.string_view():
        assert strings(column.dictionary_encode()) == strings(column)
