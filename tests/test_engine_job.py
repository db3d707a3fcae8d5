"""One running batch: each line once, and lines of results that are what the API says."""

import errno
import os
import random
import re
import threading
from typing import Any

import orjson
import pytest

from embedfill.engine import room
from embedfill.engine.work.job import Item, failed, fresh_ids, never_run
from embedfill.errors import RefusedError
from tests.bench_fixtures import Bench, runs
from tests.engine_fixtures import jsonl, request_line, texts

ITEM = Item(3, 'odd "id"\u2028', {}, 100)


def test_ids_are_unguessable_and_never_twice() -> None:
    found: list[tuple[str, str]] = []
    threads = [threading.Thread(target=lambda: found.extend(fresh_ids() for _ in range(3000))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(
        re.fullmatch(r"batch_req_[0-9a-f]{24}", one) and re.fullmatch(r"[0-9a-f]{32}", two) for one, two in found
    )
    assert len({digits for pair in found for digits in pair}) == 2 * len(found) == 24_000
    assert not any(two.startswith(one[10:]) for one, two in found)


def test_lines_of_what_failed_and_of_what_never_ran() -> None:
    for result, ran in (
        (failed(ITEM, RefusedError(400, "bad", "No.", param="input")), True),
        (never_run(ITEM, "batch_expired", "Too late."), False),
    ):
        assert (result.line, result.spool, result.ran, result.tokens) == (3, "error", ran, 0)
        assert result.text.endswith(b"\n") and result.text.count(b"\n") == 1
        line = orjson.loads(result.text)
        assert line["custom_id"] == ITEM.custom_id and set(line) == {"id", "custom_id", "response", "error"}
        assert (line["response"] is None) != ran and (line["error"] is None) == ran


def test_a_job_that_was_closed_begins_where_it_was(bench: Bench) -> None:
    batch = bench.batch(jsonl(request_line(f"r{n}", text) for n, text in enumerate(texts(10))))
    jobs = bench.worker._jobs
    (job,) = jobs.running()
    taken = [item for item in (job.take() for _ in range(4)) if item is not None]
    assert [item.custom_id for item in taken] == ["r0", "r1", "r2", "r3"] and job.outstanding == 4
    job.put([never_run(item, "x", "y") for item in taken[1:3]])
    jobs.close()
    (again,) = jobs.running()
    rest = list(iter(again.take, None))
    assert [item.custom_id for item in rest] == ["r0", *(f"r{n}" for n in range(3, 10))]
    assert again.exhausted and again.outstanding == 8
    again.put([never_run(item, "x", "y") for item in rest])
    bench.end(batch)


def test_a_job_keeps_what_the_disk_does_not_take(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes fail at random, some in the middle; in the end every result is there once, in order, and nothing else."""
    chance, full = random.Random(1), [0.3]

    def failing(name: str) -> Any:
        real = getattr(os, name)

        def call(descriptor: int, *others: Any) -> Any:
            ours = "/spool/" in os.readlink(f"/proc/self/fd/{descriptor}")
            if ours and chance.random() < full[0]:
                if name == "pwrite":
                    real(descriptor, others[0][: len(others[0]) // 2], others[1])
                raise OSError(errno.ENOSPC, "full")
            return real(descriptor, *others)

        return call

    batch = bench.batch(jsonl(request_line(f"r{n}", text) for n, text in enumerate(texts(60))))
    jobs = bench.worker._jobs
    (job,) = jobs.running()
    for name in ("pwrite", "fsync", "ftruncate"):
        monkeypatch.setattr(os, name, failing(name))
    raised = 0
    while (item := job.take()) is not None:
        job.put([never_run(item, "x", "y" * chance.randrange(100))])
        try:
            jobs.catch_up()
        except OSError as error:
            assert room.cause(error) == errno.ENOSPC
            raised += 1
    full[0] = 0.0
    jobs.catch_up()
    bench.end(batch)
    lines = bench.lines(bench.get(batch).error_file_id)
    assert [line["custom_id"] for line in lines] == [f"r{n}" for n in range(60)]
    assert raised > 5 and runs(bench.root) == {0: 60} and not job._kept and not job._kept_bytes


def test_a_job_without_room_takes_no_line(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is it begun; and no file stays open over it."""
    bench.batch(jsonl([request_line("r", "text")]))
    real = os.pwrite

    def full(descriptor: int, data: bytes, offset: int) -> int:
        real(descriptor, data[:100], offset)
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "pwrite", full)
    is_open = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(OSError, match="full"):
            bench.worker.step()
    assert len(os.listdir("/proc/self/fd")) == is_open
    monkeypatch.setattr(os, "pwrite", real)
    assert bench.worker.step()
