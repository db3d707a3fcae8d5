"""What is old is collected, in small steps; what anybody may still ask for is not."""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from embedfill.engine.settings import WebhookSettings
from embedfill.engine.work.sweep import Sweep
from embedfill.engine.work.webhooks import hooks_of, record
from embedfill.errors import RefusedError
from tests.bench_fixtures import Bench, execute
from tests.engine_fixtures import jsonl, request_line

DAY_S = 86_400
STAMPS = ("created_at", "in_progress_at", "finalizing_at", "completed_at", "failed_at", "expired_at")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    hooks = hooks_of([WebhookSettings(url="http://127.0.0.1:1/x", secret_env="HOOK")], {"HOOK": "secret"})
    made = Bench(tmp_path, ended=partial(record, hooks))
    yield made
    made.close()


def _ended(bench: Bench, count: int = 1) -> str:
    batch_id = bench.batch(jsonl(request_line(f"r{n}", f"text {n}") for n in range(count)))
    bench.end(batch_id)
    return batch_id


def _age(bench: Bench, days: float) -> None:
    """Everything is that much older."""
    past = int(days * DAY_S)
    stamps = ", ".join(f"{name} = {name} - {past}" for name in STAMPS)
    execute(bench.root, f"UPDATE batches SET {stamps}, expires_at = expires_at - {past}")
    execute(bench.root, f"UPDATE files SET created_at = created_at - {past}, expires_at = expires_at - {past}")
    execute(bench.root, f"UPDATE events SET created_at = created_at - {past}, done_at = done_at - {past}")


def _sweep(bench: Bench) -> int:
    """Sweeps until there is nothing to do; the number of steps that did something."""
    sweep = Sweep(bench.database, bench.files.sweep)
    steps = 0
    while sweep.step():
        steps += 1
        assert steps < 100
    return steps


def _counts(bench: Bench) -> dict[str, int]:
    return {name: execute(bench.root, f"SELECT count(*) FROM {name}")[0][0] for name in ("batches", "lines", "files")}


def test_what_is_young_stays(bench: Bench) -> None:
    _ended(bench)
    bench.batch(b"no json\n")
    before = _counts(bench)
    assert _sweep(bench) == 0 and _counts(bench) == before


def test_lines_go_first_then_files_then_batches(bench: Bench) -> None:
    batch_id = _ended(bench, 10)
    output = bench.get(batch_id).output_file_id
    _age(bench, 1.1)
    _sweep(bench)
    assert _counts(bench) == {"batches": 1, "lines": 0, "files": 1}
    _age(bench, 29)
    _sweep(bench)
    assert _counts(bench)["files"] == 0 and not bench.files.path(str(output)).exists()
    assert bench.get(batch_id).output_file_id == output  # who looks back a month finds it
    _age(bench, 31)
    _sweep(bench)
    assert _counts(bench) == {"batches": 0, "lines": 0, "files": 0}
    with pytest.raises(RefusedError):
        bench.batches.get(batch_id, "")


def test_a_batch_stays_as_long_as_its_output(bench: Bench) -> None:
    batch_id = _ended(bench)
    execute(bench.root, "UPDATE files SET expires_at = NULL")
    _age(bench, 100)
    _sweep(bench)
    assert bench.get(batch_id).status == "completed"


def test_what_has_not_ended_stays_however_old_it_is(bench: Bench) -> None:
    running = bench.batch(jsonl(request_line(f"r{n}", "text") for n in range(5)))
    waiting = bench.batch(jsonl([request_line("a", "text")]), valid=False)
    _age(bench, 1_000)
    _sweep(bench)
    assert [bench.get(one).status for one in (running, waiting)] == ["in_progress", "validating"]


def test_many_lines_go_in_steps_and_only_their_own(bench: Bench) -> None:
    old = _ended(bench)
    _age(bench, 2)
    young = _ended(bench, 3)
    ((seq,),) = execute(bench.root, "SELECT seq FROM batches WHERE id = ?", old)
    bench.database.write(
        lambda connection: connection.executemany(
            "INSERT INTO lines VALUES (?, ?, 'output', 0, 0, 0, 1)", [(seq, n) for n in range(2, 5_001)]
        )
    ).result()
    assert _sweep(bench) == 3
    ((left, batch),) = execute(bench.root, "SELECT count(*), min(batch) FROM lines")
    assert left == 3 and bench.get(young).status == "completed" and batch != seq


def test_lines_of_a_batch_that_is_gone(bench: Bench) -> None:
    execute(bench.root, "INSERT INTO lines VALUES (99, 1, 'output', 0, 0, 0, 1)")
    _sweep(bench)
    assert _counts(bench)["lines"] == 0


def test_events_that_were_told_and_those_that_nobody_takes(bench: Bench) -> None:
    for _ in range(2):
        _ended(bench)
    execute(bench.root, "UPDATE events SET done_at = ? WHERE seq = 1", int(time.time()))
    _age(bench, 6.9)
    assert _events(bench) == 2
    _age(bench, 0.2)
    assert _events(bench) == 1  # it is tried for three days, and somebody may look for why it failed
    _age(bench, 3)
    assert _events(bench) == 0


def _events(bench: Bench) -> int:
    _sweep(bench)
    return int(execute(bench.root, "SELECT count(*) FROM events")[0][0])
