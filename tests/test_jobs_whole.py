"""A file that appears when it is whole, and what killed writers leave beside it."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from embedfill.jobs.whole import parts_of, whole
from tests.cli_fixtures import everything_below


def write_and_die(out: Path) -> None:
    with whole(out) as temp:
        temp.write_bytes(b"half")
        parts_of(temp).mkdir()
        (parts_of(temp) / "part").touch()
        os.kill(os.getpid(), signal.SIGKILL)


def test_it_takes_the_place_of_what_was_there(tmp_path: Path) -> None:
    out = tmp_path / "results.parquet"
    out.write_bytes(b"before")
    with whole(out) as temp:
        temp.write_bytes(b"after")
        assert out.read_bytes() == b"before"
    assert out.read_bytes() == b"after" and everything_below(tmp_path) == ["results.parquet"]


def test_a_writer_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    out = tmp_path / "results.parquet"
    out.write_bytes(b"before")
    with pytest.raises(ValueError, match="no"), whole(out) as temp:
        parts_of(temp).mkdir()
        raise ValueError("no")
    assert out.read_bytes() == b"before" and everything_below(tmp_path) == ["results.parquet"]


def test_what_a_killed_writer_left_goes_with_the_next_and_what_is_written_now_stays(tmp_path: Path) -> None:
    out = tmp_path / "results.parquet"
    process = multiprocessing.get_context("forkserver").Process(target=write_and_die, args=(out,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(everything_below(tmp_path)) == 3 and not out.exists()
    others = [tmp_path / ".results.parquet.bak", tmp_path / ".results.parquet2.part-00"]
    for other in others:
        other.touch()
    with whole(out) as first, whole(out) as second:
        second.write_bytes(b"second")
        first.write_bytes(b"first")
    assert out.read_bytes() == b"first"
    assert everything_below(tmp_path) == sorted([out.name, *(other.name for other in others)])


def test_where_there_is_no_folder_it_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), whole(tmp_path / "no" / "out"):
        pass
