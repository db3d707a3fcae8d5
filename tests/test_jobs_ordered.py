"""Rows in any order come back in the order of their positions."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from embedfill.jobs import ordered as module
from embedfill.jobs.ordered import Ordered

SCHEMA = pa.schema([("value", pa.string())])


@pytest.mark.parametrize("size", [0, 10_000, 10**9])
def test_rows_come_back_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(module, "_PARTITION_BYTES", 1000)
    count, chance = 1000, np.random.default_rng(3)
    positions = chance.permutation(count)[:900]
    with Ordered(tmp_path / "parts", SCHEMA, count, size) as rows:
        for some in np.array_split(positions, 13):
            rows.add(pa.table({"value": [f"v{at}" for at in some]}, schema=SCHEMA), some)
        found = list(rows.partitions())
    assert [start for start, _, _ in found] == [0, *(end for _, end, _ in found[:-1])] and found[-1][1] == count
    assert len(found) == {0: 1, 10_000: 10, 10**9: 500}[size]
    table = pa.concat_tables([table for _, _, table in found])
    assert table["position"].to_pylist() == sorted(positions.tolist())
    assert table["value"].to_pylist() == [f"v{at}" for at in sorted(positions.tolist())]
    assert not list((tmp_path / "parts").iterdir())


def test_rows_of_one_position_stay_in_the_order_they_came(tmp_path: Path) -> None:
    with Ordered(tmp_path, SCHEMA, 3, 0) as rows:
        for value in ("a", "b", "c"):
            rows.add(pa.table({"value": [value, value]}, schema=SCHEMA), np.array([2, 0]))
        ((_, _, table),) = rows.partitions()
    assert table["value"].to_pylist() == ["a", "b", "c"] * 2


def test_nothing_at_all(tmp_path: Path) -> None:
    with Ordered(tmp_path, SCHEMA, 0, 0) as rows:
        assert [table.num_rows for _, _, table in rows.partitions()] == [0]
