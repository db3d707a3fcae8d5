"""Packs: Parquet that other readers take unchanged, whole or not there at all, written and read in flat memory."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from embedfill import ids
from embedfill.ids import IdArray
from embedfill.loader.packs import ROW_GROUP, PackWriter, read_pack, row_ids

_MEASURE = """
import resource, sys
from pathlib import Path
import numpy as np
from embedfill import ids
from embedfill.loader.packs import PackWriter, read_pack

path, rows, dimensions = Path(sys.argv[1]), int(sys.argv[2]), 1536
chance = np.random.default_rng(1)
def batch(at):
    return ids.array(ids.text_id(str(n)) for n in range(at, at + 100)), chance.random((100, dimensions), np.float32)
def write(path, rows):
    with PackWriter(path, dimensions) as writer:
        for at in range(0, rows, 100):
            writer.add(*batch(at))
    return writer
write(path.with_name("warm.parquet"), 3000)
sum(len(found) for found, _ in read_pack(path.with_name("warm.parquet")))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
writer = write(path, rows)
assert sum(len(found) for found, _ in read_pack(path)) == rows == len(writer.sorted_ids()) // 16
print("grown", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def names(count: int, start: int = 0) -> IdArray:
    return ids.array(ids.text_id(str(number)) for number in range(start, start + count))


def values(count: int, dimensions: int, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(count, dimensions)).astype(np.float32)


def read(path: Path) -> tuple[list[bytes], NDArray[np.float32]]:
    parts = list(read_pack(path))
    return [one for found, _ in parts for one in ids.tolist(found)], np.concatenate([vectors for _, vectors in parts])


@pytest.mark.parametrize("dimensions", [1, 7, 384])
@pytest.mark.parametrize("sizes", [[1], [1024], [1023, 1, 5], [100] * 21, [3000, 0, 2], [5000]], ids=str)
def test_what_goes_in_comes_out_in_row_groups_of_1024(tmp_path: Path, dimensions: int, sizes: list[int]) -> None:
    rows = sum(sizes)
    text_ids, vectors = names(rows), values(rows, dimensions)
    with PackWriter(tmp_path / "p.parquet", dimensions) as writer:
        at = 0
        for size in sizes:
            writer.add(text_ids[at : at + size], vectors[at : at + size])
            at += size
    found, read_back = read(tmp_path / "p.parquet")
    assert found == ids.tolist(text_ids)
    assert read_back.tobytes() == vectors.tobytes()
    assert writer.rows == rows
    metadata = pq.read_metadata(tmp_path / "p.parquet")
    groups = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
    assert groups == [ROW_GROUP] * (rows // ROW_GROUP) + [rows % ROW_GROUP] * bool(rows % ROW_GROUP)


@given(st.lists(st.integers(0, 1500), max_size=6))
def test_any_sizes_make_the_same_file(tmp_path: Path, sizes: list[int]) -> None:
    """A pack is named after its bytes: how its rows came must not show."""
    rows = sum(sizes)
    text_ids, vectors = names(rows), values(rows, 3)
    for path, parts in ((tmp_path / "many", sizes), (tmp_path / "one", [rows])):
        with PackWriter(path, 3) as writer:
            at = 0
            for size in parts:
                writer.add(text_ids[at : at + size], vectors[at : at + size])
                at += size
    assert (tmp_path / "many").read_bytes() == (tmp_path / "one").read_bytes()


def test_other_readers_see_a_fixed_size_list_of_float32(tmp_path: Path) -> None:
    text_ids, vectors = names(2000), values(2000, 5)
    with PackWriter(tmp_path / "p.parquet", 5) as writer:
        writer.add(text_ids, vectors)
    table = pq.read_table(tmp_path / "p.parquet")
    assert table.schema.field("text_id").type == pa.binary(16)
    assert table.schema.field("vector").type == pa.list_(pa.float32(), 5)
    assert table.column("text_id").to_pylist() == ids.tolist(text_ids)
    assert np.array(table.column("vector").to_pylist(), np.float32).tobytes() == vectors.tobytes()
    assert pq.ParquetFile(tmp_path / "p.parquet").schema.column(1).physical_type == "FLOAT"


def test_a_pack_without_rows_is_a_file_all_the_same(tmp_path: Path) -> None:
    with PackWriter(tmp_path / "p.parquet", 5) as writer:
        writer.add(names(0), values(0, 5))
    assert (writer.rows, writer.sorted_ids()) == (0, b"")
    assert pq.read_table(tmp_path / "p.parquet").num_rows == 0
    assert list(read_pack(tmp_path / "p.parquet")) == []
    assert len(row_ids(tmp_path / "p.parquet")) == 0


def test_the_ids_beside_are_sorted_and_those_inside_are_in_row_order(tmp_path: Path) -> None:
    text_ids = names(3000)
    with PackWriter(tmp_path / "p.parquet", 2) as writer:
        writer.add(text_ids, values(3000, 2))
    assert writer.sorted_ids() == b"".join(sorted(ids.tolist(text_ids)))
    assert ids.tolist(row_ids(tmp_path / "p.parquet")) == ids.tolist(text_ids)


def test_ids_with_zero_bytes_at_the_end_stay_whole(tmp_path: Path) -> None:
    odd = [b"\0" * 16, b"a" + b"\0" * 15, b"\0" * 15 + b"a"]
    with PackWriter(tmp_path / "p.parquet", 2) as writer:
        writer.add(ids.array(odd), values(3, 2))
    assert read(tmp_path / "p.parquet")[0] == odd
    assert writer.sorted_ids() == b"".join(sorted(odd))


def test_vectors_that_are_views_of_larger_ones_are_written_right(tmp_path: Path) -> None:
    wide = values(3000, 8)
    with PackWriter(tmp_path / "p.parquet", 4) as writer:
        writer.add(names(1500), wide[::2, :4])
        wide[:] = 0  # flushed rows and held rows are copies by then, or were written
    assert writer.rows == 1500
    found = read(tmp_path / "p.parquet")[1]
    assert found[:ROW_GROUP].tobytes() == np.ascontiguousarray(values(3000, 8)[::2, :4][:ROW_GROUP]).tobytes()


@pytest.mark.parametrize("rows", [0, 10, 3000])
def test_an_error_leaves_no_file(tmp_path: Path, rows: int) -> None:
    with pytest.raises(KeyboardInterrupt), PackWriter(tmp_path / "p.parquet", 3) as writer:
        writer.add(names(rows), values(rows, 3))
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_an_error_at_the_very_end_leaves_no_file_either(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="size"), PackWriter(tmp_path / "p.parquet", 3) as writer:
        writer.add(names(10), values(10, 4))  # the wrong width shows when the rest is written
    assert list(tmp_path.iterdir()) == []


def test_nothing_stands_at_the_path_before_the_end(tmp_path: Path) -> None:
    with PackWriter(tmp_path / "p.parquet", 3) as writer:
        writer.add(names(3000), values(3000, 3))
        assert not (tmp_path / "p.parquet").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["p.parquet"]


def grown_kb(path: Path, rows: int) -> int:
    run = subprocess.run([sys.executable, "-c", _MEASURE, path, str(rows)], capture_output=True, text=True, check=False)
    match = re.search(r"grown (\d+)", run.stdout)
    assert match, run.stderr
    path.unlink()
    return int(match[1])


def test_memory_does_not_grow_with_the_pack(tmp_path: Path) -> None:
    """12,000 vectors of 1,536 are 74 MB."""
    assert grown_kb(tmp_path / "p.parquet", 12_000) < 25_000
