"""Two results compared: what changed, what is missing, what each cost; whatever the order of the rows."""

import random
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedfill.errors import UsageError
from embedfill.jobs.diff import diff
from embedfill.jobs.results import METADATA_KEY, RESULTS


def row(name: str | None, said: str, status: str = "ok", **values: Any) -> dict[str, Any]:
    body = orjson.dumps({"choices": [{"message": {"content": said}}]}).decode() if status == "ok" else None
    found = dict.fromkeys(RESULTS.names) | {"custom_id": name, "status": status, "body": body, "model": "m"}
    more = {"source_file": "f", "source_row": 1, "prompt_tokens": 10, "completion_tokens": 1, "cost_usd": 0.5}
    return {**found, **more, "error_code": None if status == "ok" else said, **values}


def write(path: Path, rows: list[dict[str, Any]], endpoint: str = "/v1/chat/completions") -> Path:
    schema = RESULTS.with_metadata({METADATA_KEY: orjson.dumps({"endpoint": endpoint})})
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=3)
    return path


def test_changes_missing_rows_costs_and_models(tmp_path: Path) -> None:
    a = write(
        tmp_path / "a.parquet", [row("1", "x", template="t1"), row("2", "y"), row("3", "z"), row(None, "", "rejected")]
    )
    b = write(
        tmp_path / "b.parquet", [row("3", "bad", "failed"), row("4", "new", model="n"), row("1", "x"), row("2", "Y")]
    )
    found = diff(a, b, tmp_path / "changed.parquet")
    assert (found.same, found.changed, found.only_a, found.only_b) == (1, 2, 0, 1)
    assert (found.a.rows, found.a.prompt_tokens, found.a.cost_usd) == (3, 30, 1.5)
    assert found.a.templates == {"t1": 1} and found.b.models == {"m": 3, "n": 1}
    assert found.b.statuses == {"ok": 3, "failed": 1} and found.a.endpoint == "/v1/chat/completions"
    changed = pq.read_table(tmp_path / "changed.parquet").to_pylist()
    assert [(one["custom_id"], one["answer_a"], one["answer_b"], one["status_b"]) for one in changed] == [
        ("2", "y", "Y", "ok"), ("3", "z", "bad", "failed"),
    ]  # fmt: skip


def test_many_rows_in_another_order(tmp_path: Path) -> None:
    names = [f"n{number}" for number in range(2000)]
    shuffled = random.Random(1).sample(names, len(names))
    a = write(tmp_path / "a.parquet", [row(name, "same") for name in names])
    b = write(tmp_path / "b.parquet", [row(name, "other" if name.endswith("7") else "same") for name in shuffled])
    found = diff(a, b, tmp_path / "changed.parquet")
    changed = pq.read_table(tmp_path / "changed.parquet")
    assert changed["custom_id"].to_pylist() == [name for name in names if name.endswith("7")]
    assert found.changed == changed.num_rows == 200 and found.same == 1800
    assert set(changed["answer_b"].to_pylist()) == {"other"}


@pytest.mark.parametrize("sides", [([], []), ([row("1", "x")], []), ([], [row("1", "x")])])
def test_empty_sides(tmp_path: Path, sides: tuple[list[dict[str, Any]], list[dict[str, Any]]]) -> None:
    one, other = (write(tmp_path / f"{number}.parquet", rows) for number, rows in enumerate(sides))
    found = diff(one, other, tmp_path / "changed.parquet")
    assert (found.only_a, found.only_b, found.changed) == (len(sides[0]), len(sides[1]), 0)
    assert pq.read_table(tmp_path / "changed.parquet").num_rows == 0


def test_a_cost_that_nobody_knows_stays_unknown(tmp_path: Path) -> None:
    a = write(tmp_path / "a.parquet", [row("1", "x"), row("2", "x", cost_usd=None)])
    assert diff(a, a).a.cost_usd is None


def test_files_that_are_no_results_are_named(tmp_path: Path) -> None:
    good = write(tmp_path / "a.parquet", [])
    pq.write_table(pa.table({"custom_id": ["a"]}), tmp_path / "other.parquet")
    (tmp_path / "text.parquet").write_text("no table")
    for name in ("other", "text", "absent"):
        with pytest.raises(UsageError, match=f"{name}.parquet"):
            diff(good, tmp_path / f"{name}.parquet")


def test_a_damaged_row_is_compared_as_it_is(tmp_path: Path) -> None:
    a = write(tmp_path / "a.parquet", [row("1", "x", body=""), row("2", "x", body='{"a":'), row("3", "x")])
    table = pq.read_table(a)
    changed = table.set_column(1, "status", pa.array(["ok", "ok", None], pa.string()))
    pq.write_table(changed.replace_schema_metadata({METADATA_KEY: b"no json"}), tmp_path / "b.parquet")
    found = diff(a, tmp_path / "b.parquet", tmp_path / "out.parquet")
    assert (found.same, found.changed, found.b.endpoint) == (2, 1, "")


def test_columns_of_other_types_are_read_where_they_can_be(tmp_path: Path) -> None:
    a = write(tmp_path / "a.parquet", [row("1", "x")])
    table = pq.read_table(a).replace_schema_metadata({METADATA_KEY: b"{}"})
    for name, values in (("custom_id", [1]), ("cost_usd", ["0.25"])):
        table = table.set_column(table.schema.names.index(name), name, pa.array(values))
    pq.write_table(table, tmp_path / "b.parquet")
    found = diff(a, tmp_path / "b.parquet")
    assert (found.same, found.b.cost_usd) == (1, 0.25)
    pq.write_table(
        table.set_column(table.schema.names.index("cost_usd"), "cost_usd", pa.array(["dear"])), tmp_path / "c.parquet"
    )
    with pytest.raises(UsageError, match=r"c\.parquet: .*dear"):
        diff(a, tmp_path / "c.parquet")
