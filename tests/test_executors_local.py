"""The executor of this machine: order, look-ahead, errors, and that no process is left, however it ends."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from embedfill.errors import CorpusError, WorldError
from embedfill.executors.local import LocalExecutor

_PROGRAM = """
import os
from pathlib import Path
from embedfill.executors.local import LocalExecutor
from tests.test_executors_local import where

if __name__ == "__main__":
    with LocalExecutor(2) as executor:
        for number, pid in enumerate(executor.map(where, range(100_000))):
            if number == 20:
                print("going", flush=True)
"""


def power(base: int, exponent: int) -> int:
    return base**exponent


def slow_first(number: int) -> int:
    if number == 4:  # the first one that goes to a worker
        time.sleep(0.2)
    return number


def where(number: int) -> int:
    return os.getpid()


def fails_at_nine(number: int) -> int:
    if number == 9:
        raise CorpusError("nine.parquet", "is not a number", "take another")
    return number


def dies_at_nine(number: int) -> int:
    if number == 9:
        os._exit(7)
    return number


def threads_of(_: int) -> tuple[str | None, str | None]:
    return os.environ.get("OMP_NUM_THREADS"), os.environ.get("TOKENIZERS_PARALLELISM")


class Counted:
    """Counts how many of its items were taken."""

    def __init__(self, items: range) -> None:
        self.taken = 0
        self._items = items

    def __iter__(self) -> Iterator[int]:
        for item in self._items:
            self.taken += 1
            yield item


@pytest.fixture(scope="module")
def two() -> Iterator[LocalExecutor]:
    with LocalExecutor(2) as executor:
        yield executor


@pytest.mark.parametrize("count", [0, 1, 4, 5, 40])
def test_one_worker_and_two_give_the_same_in_order(two: LocalExecutor, count: int) -> None:
    expected = [number**3 for number in range(count)]
    for executor in (LocalExecutor(1), LocalExecutor(0), two):
        assert list(executor.map(partial(power, exponent=3), range(count))) == expected


def test_a_slow_item_does_not_lose_its_place(two: LocalExecutor) -> None:
    assert list(two.map(slow_first, range(30))) == list(range(30))


def test_large_work_leaves_this_process_and_small_work_stays(two: LocalExecutor) -> None:
    assert set(two.map(where, range(4))) == {os.getpid()}
    elsewhere = set(list(two.map(where, range(60)))[4:])
    assert os.getpid() not in elsewhere and 1 <= len(elsewhere) <= 2


def test_a_small_job_starts_no_process() -> None:
    before = set(multiprocessing.active_children())
    with LocalExecutor(2) as executor:
        list(executor.map(where, range(4)))
        assert set(multiprocessing.active_children()) == before


def test_only_a_few_items_are_taken_ahead(two: LocalExecutor) -> None:
    items = Counted(range(1_000))
    results = two.map(power_of_two, items)
    for done in range(1, 200):
        next(results)
        assert items.taken <= done + 6


def power_of_two(number: int) -> int:
    return number * 2


def test_one_worker_takes_one_item_at_a_time() -> None:
    items = Counted(range(10))
    results = LocalExecutor(1).map(power_of_two, items)
    assert (next(results), items.taken) == (0, 1)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_error_of_a_call_is_raised_in_its_place(two: LocalExecutor, workers: int) -> None:
    executor = LocalExecutor(1) if workers == 1 else two
    results = executor.map(fails_at_nine, range(100))
    assert [next(results) for _ in range(9)] == list(range(9))
    with pytest.raises(CorpusError, match=r"nine\.parquet") as caught:
        next(results)
    assert (caught.value.file, caught.value.hint) == ("nine.parquet", "take another")
    assert list(executor.map(power_of_two, range(20))) == list(range(0, 40, 2))


def test_workers_use_one_thread_each(two: LocalExecutor) -> None:
    assert set(list(two.map(threads_of, range(20)))[4:]) == {("1", "false")}


def test_a_worker_that_dies_is_an_error_of_ours() -> None:
    with LocalExecutor(2) as executor, pytest.raises(WorldError, match="worker process") as caught:
        list(executor.map(dies_at_nine, range(100)))
    assert "executor.workers" in caught.value.hint


def test_the_context_ends_its_processes_also_with_work_under_way() -> None:
    before = set(multiprocessing.active_children())
    with LocalExecutor(2) as executor:
        next(iter(executor.map(where, range(1_000))))
        results = executor.map(where, range(1_000))
        for _ in range(6):
            next(results)
        assert set(multiprocessing.active_children()) > before
    assert set(multiprocessing.active_children()) == before


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_no_worker_outlives_its_parent_nor_speaks_of_an_interrupt(sent: signal.Signals) -> None:
    """A terminal sends SIGINT to the whole group; SIGKILL goes to the parent alone."""
    command = [sys.executable, "-c", _PROGRAM]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        cwd=Path(__file__).parent.parent,
    )
    assert process.stdout is not None and process.stdout.readline() == b"going\n"
    if sent == signal.SIGINT:
        os.killpg(process.pid, sent)
    else:
        process.send_signal(sent)
    _, said = process.communicate(timeout=60)  # ends when no process holds the pipes any more
    assert process.returncode == -sent
    assert said.count(b"Traceback") == (1 if sent == signal.SIGINT else 0)
