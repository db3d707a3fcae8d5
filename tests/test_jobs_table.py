"""Rows of tables to requests: values of any plain type, nulls and damage as rejections of their own row."""

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedfill.errors import CorpusError, UsageError
from embedfill.jobs.prompt import Prompt
from embedfill.jobs.request import Request
from embedfill.jobs.table import find_tables, read_table
from embedfill.records import Rejection
from tests.chat_fixtures import CHAT

PROMPT = Prompt("p", "id", CHAT, {"model": "m", "messages": [{"role": "user", "content": "<{value}>"}]})


def read(path: Path, values: Any, names: Any = None, most: int = 10_000) -> list[Request | Rejection]:
    column = values if isinstance(values, pa.Array) else pa.array(values)
    names = pa.array(names or [f"r{number}" for number in range(len(column))])
    pq.write_table(pa.table({"id": names, "unused": column, "value": column}), path, row_group_size=3)
    return list(read_table(path, PROMPT, most))


def said(found: Request | Rejection) -> str:
    assert isinstance(found, Request), found
    content: str = found.body["messages"][0]["content"]
    return content.removeprefix("<").removesuffix(">")


@pytest.mark.parametrize(
    "values, shown",
    [
        ([7, -1], ["7", "-1"]),
        ([0.5, 2.0], ["0.5", "2"]),
        ([True, False], ["true", "false"]),
        ([Decimal("1.50")], ["1.50"]),
        ([date(2026, 1, 2)], ["2026-01-02"]),
        (pa.array([datetime(2026, 1, 2, 3, tzinfo=UTC)], pa.timestamp("s", "Europe/Berlin")), ["2026-01-02T03:00:00Z"]),
        (pa.array(["a", "b", "a"]).dictionary_encode(), ["a", "b", "a"]),
        (pa.array(["", 'q"\n'], pa.large_string()), ["", 'q"\n']),
    ],
)
def test_values_as_text(tmp_path: Path, values: Any, shown: list[str]) -> None:
    assert [said(one) for one in read(tmp_path / "t.parquet", values)] == shown


def test_rows_that_cannot_be_asked_are_rejected_alone(tmp_path: Path) -> None:
    raw = pa.Array.from_buffers(pa.string(), 5, pa.array([b"a", b"\xff", None, b"x" * 200, b"b"]).buffers())
    found = read(tmp_path / "t.parquet", raw, ["r1", "r2", "r3", "r4", None], most=150)
    codes = [one.code if isinstance(one, Rejection) else "ok" for one in found]
    assert codes == ["ok", "invalid_utf8", "null_value", "too_large", "null_value"]
    assert [one.source.row for one in found if isinstance(one, Rejection) and one.source] == [2, 3, 4, 5]
    assert "'value' is null" in found[2].message and "'id' is null" in found[4].message  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", [pa.list_(pa.int64()), pa.binary(), pa.duration("s")])
def test_columns_without_a_text_are_refused(tmp_path: Path, kind: Any) -> None:
    with pytest.raises(CorpusError, match=r"t\.parquet: column 'value' is"):
        read(tmp_path / "t.parquet", pa.array([None], kind))


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "t.parquet")
    with pytest.raises(CorpusError, match=r"has no column 'value' \(it has: id\)"):
        list(read_table(tmp_path / "t.parquet", PROMPT, 100))


def test_a_file_that_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"nothing of that kind")
    with pytest.raises(CorpusError, match=r"t\.parquet: cannot be read as Parquet"):
        list(read_table(tmp_path / "t.parquet", PROMPT, 100))


def test_patterns_name_files_once_in_order(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        (tmp_path / f"{name}.parquet").touch()
    found = find_tables([str(tmp_path / "c.parquet"), str(tmp_path / "*.parquet")])
    assert [path.stem for path in found] == ["c", "a", "b"]
    with pytest.raises(UsageError, match="none"):
        find_tables([str(tmp_path / "none*")])
