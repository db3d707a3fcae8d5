"""Cancelling, finalizing, expiring and deleting at the same moment: one of them wins, whole, and what was promised holds."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from embedfill.engine.http.batch_routes import parse
from embedfill.engine.service import Engine
from embedfill.engine.settings import EngineSettings
from embedfill.engine.state.files import new_file
from embedfill.errors import RefusedError
from tests.engine_fixtures import ENDED, batch_body, jsonl, request_line
from tests.invariants_fixtures import Ledger, violations

IDS = [f"r{n}" for n in range(5)]


class Bench:
    """An engine whose threads do not run: the test makes each step."""

    def __init__(self, data: Path) -> None:
        data.mkdir()
        self.engine = Engine(EngineSettings(data=data, threads=1, log_level="error"))
        self.ledger = Ledger()
        self.data = data

    def submit(self) -> str:
        part = self.engine.files.new_part()
        content = jsonl(request_line(id_, f"text {id_}") for id_ in IDS)
        part.write_bytes(content)
        file = self.engine.files.adopt(part, new_file(len(content), "a.jsonl", "batch", None), "")
        self.ledger.uploaded(file.model_dump(), content)
        batch = self.engine.batches.create(parse(batch_body(file.id), {"24h": 86_400}, None, ""))
        self.ledger.submitted(batch.model_dump(), IDS)
        return batch.id

    def look(self, batch_id: str) -> dict[str, Any]:
        batch = self.engine.batches.get(batch_id, "").model_dump()
        self.ledger.saw(batch)
        return batch

    def cancel(self, batch_id: str) -> str:
        batch = self.engine.batches.cancel(batch_id, "").model_dump()
        self.ledger.cancelled(batch)
        return str(batch["status"])

    def work(self, batch_id: str) -> dict[str, Any]:
        """Steps until the batch has ended."""
        for _ in range(20):
            self.engine._worker.step()
            if self.look(batch_id)["status"] in ENDED:
                return self.look(batch_id)
        raise AssertionError("the batch does not end")

    def close(self) -> None:
        assert self.engine.stop()
        assert violations(self.data, self.ledger) == []


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "engine")
    yield made
    made.close()


def before(monkeypatch: pytest.MonkeyPatch, of: object, name: str, do: Callable[[], object]) -> None:
    """Does something right before the first call of a method."""
    real, left = getattr(of, name), [do]

    def call(*arguments: Any) -> Any:
        if left:
            left.pop()()
        return real(*arguments)

    monkeypatch.setattr(of, name, call)


def test_a_cancel_right_before_it_finalizes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    batch_id = bench.submit()
    assert bench.engine._validator.step()
    answers: list[str] = []
    before(monkeypatch, bench.engine.batches, "finalize", lambda: answers.append(bench.cancel(batch_id)))
    batch = bench.work(batch_id)
    assert (answers, batch["status"]) == (["cancelling"], "cancelled")
    assert batch["request_counts"] == {"total": 5, "completed": 5, "failed": 0}


def test_a_cancel_while_it_finalizes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    batch_id = bench.submit()
    assert bench.engine._validator.step()
    answers: list[str] = []
    before(monkeypatch, bench.engine.batches, "end", lambda: answers.append(bench.cancel(batch_id)))
    batch = bench.work(batch_id)
    assert (answers, batch["status"]) == (["finalizing"], "completed")
    with pytest.raises(RefusedError) as refused:
        bench.cancel(batch_id)
    assert refused.value.status == 409


def test_a_cancel_right_before_it_expires(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """All its requests were written off as expired by then."""
    batch_id = bench.submit()
    assert bench.engine._validator.step()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 86_400)
    answers: list[str] = []
    before(monkeypatch, bench.engine.batches, "end", lambda: answers.append(bench.cancel(batch_id)))
    batch = bench.work(batch_id)
    assert (answers, batch["status"]) == (["cancelling"], "cancelled")
    assert batch["request_counts"] == {"total": 5, "completed": 0, "failed": 5}


def test_a_clock_that_is_set_back_while_it_expires(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that is found expired, and is not any more after a restart: what was written off stays so."""
    batch_id = bench.submit()
    assert bench.engine._validator.step()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 86_400)
    before(monkeypatch, bench.engine.batches, "end", lambda: _raise(KeyboardInterrupt()))
    with suppress(KeyboardInterrupt):
        bench.engine._worker.step()
    bench.engine._worker.close()
    bench.engine.files.recover()
    monkeypatch.setattr(time, "time", lambda: now - 3_600)
    batch = bench.work(batch_id)
    assert batch["request_counts"] == {"total": 5, "completed": 0, "failed": 5}
    assert batch["completed_at"] >= batch["finalizing_at"] >= batch["in_progress_at"] >= batch["created_at"] >= now - 1


def test_a_cancel_while_it_is_validated(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    batch_id = bench.submit()
    before(monkeypatch, bench.engine.batches, "accept", lambda: bench.cancel(batch_id))
    assert bench.engine._validator.step()
    batch = bench.work(batch_id)
    assert (batch["status"], batch["in_progress_at"]) == ("cancelled", None)
    assert batch["request_counts"] == {"total": 5, "completed": 0, "failed": 5}


def test_an_input_that_is_deleted_while_it_is_taken(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    batch_id = bench.submit()
    file_id = bench.look(batch_id)["input_file_id"]
    bench.ledger.deleting(file_id)
    before(monkeypatch, bench.engine._spools, "hold", lambda: bench.engine.files.delete(file_id, ""))
    assert bench.engine._validator.step()
    assert bench.look(batch_id)["status"] == "failed"


def test_many_cancels_while_it_works(bench: Bench) -> None:
    """For real: every answer is kept to, whichever comes first."""
    made = [bench.submit() for _ in range(30)]
    while bench.engine._validator.step():
        pass

    def cancel() -> None:
        for batch_id in made:
            with suppress(RefusedError):
                bench.cancel(batch_id)

    thread = threading.Thread(target=cancel)
    thread.start()
    while bench.engine._worker.step():
        pass
    thread.join()
    while bench.engine._worker.step():
        pass
    assert {bench.look(batch_id)["status"] for batch_id in made} <= {"cancelled", "completed"}


def _raise(error: BaseException) -> None:
    raise error
