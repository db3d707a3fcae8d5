"""The checker of the crash tests and of the soak finds what it is there to find: each promise, broken by hand."""

import shutil
import sqlite3
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from tests.engine_crash_world import World, world
from tests.engine_fixtures import ENDED, jsonl, request_line
from tests.invariants_fixtures import Ledger, violations

IDS = [f"r{n}" for n in range(6)]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A data directory without fault: a completed batch with one failed request, and one that failed."""
    with world(tmp_path_factory.mktemp("kept")) as made:
        lines = [request_line(id_, [2_000_000_000] if id_ == "r3" else f"text {id_}") for id_ in IDS]
        for data in (jsonl(lines), jsonl([request_line("a", "text"), request_line("a", "again")])):
            batch_id = made.submit(made.upload(data), IDS)
            made.until(batch_id, lambda batch: batch["status"] in ENDED)
        made.finish()
        return made


def sql(statement: str) -> Callable[[Path], None]:
    def change(data: Path) -> None:
        connection = sqlite3.connect(data / "engine.db")
        connection.execute(statement)
        connection.commit()
        connection.close()

    return change


def a_file(data: Path, size: int) -> Path:
    return next(path for path in (data / "files").iterdir() if path.stat().st_size > size)


BROKEN = {
    "has not ended": sql("UPDATE batches SET status = 'in_progress' WHERE status = 'completed'"),
    "its times run back": sql("UPDATE batches SET finalizing_at = 5 WHERE status = 'completed'"),
    "times missing": sql("UPDATE batches SET in_progress_at = NULL WHERE status = 'completed'"),
    "times too many: ['expired_at']": sql("UPDATE batches SET expired_at = 9999999999 WHERE status = 'completed'"),
    "5 completed and 1 failed of 7": sql("UPDATE batches SET total = 7 WHERE status = 'completed'"),
    "5 lines recorded of 6": sql("DELETE FROM lines WHERE line = 2"),
    "1 lines ran again": sql("UPDATE lines SET runs = 2 WHERE line = 2"),
    "ended at": sql("UPDATE lines SET start = start + 1 WHERE line = 2"),
    "lines and the output file None": sql("UPDATE batches SET output_file_id = NULL WHERE status = 'completed'"),
    "is of purpose batch": sql("UPDATE files SET purpose = 'batch'"),
    "input_tokens is": sql("UPDATE batches SET input_tokens = input_tokens + 1 WHERE status = 'completed'"),
    "never ran, and has results": sql("UPDATE batches SET total = 1 WHERE status = 'failed'"),
    "errors: None": sql("UPDATE batches SET errors = NULL WHERE status = 'failed'"),
    "was answered and is lost": sql("DELETE FROM batches WHERE status = 'failed'"),
    "its row says": sql("UPDATE files SET bytes = bytes + 1"),
    "has no row": lambda data: (data / "files" / "file-orphan").touch(),
    "uploads/part_x has no row": lambda data: (data / "uploads" / "part_x").touch(),
    "parts/ holds": lambda data: (data / "parts" / "x").touch(),
    "spool/ holds": lambda data: (data / "spool" / "batch_x").mkdir(),
    "tmp is left": lambda data: (data / "tmp").mkdir(),
    "other bytes than were sent": lambda data: next(
        path.write_bytes(path.read_bytes().replace(b"again", b"agaim"))
        for path in (data / "files").iterdir()
        if b"again" in path.read_bytes()
    ),
    "has None bytes": lambda data: a_file(data, 0).unlink(),
    "more than one line of ['r1']": lambda data: next(
        path.write_bytes(path.read_bytes().replace(b'"r2"', b'"r1"'))
        for path in (data / "files").iterdir()
        if b'"r2"' in path.read_bytes() and b"batch_req_" in path.read_bytes()
    ),
}


@pytest.mark.parametrize("says", BROKEN)
def test_what_is_broken_is_found(kept: World, tmp_path: Path, says: str) -> None:
    data = tmp_path / "engine"
    shutil.copytree(kept.data, data)
    assert violations(data, kept.ledger) == []
    BROKEN[says](data)
    found = violations(data, kept.ledger)
    assert any(says in one for one in found), found


def test_a_cancel_that_was_answered_is_a_promise(kept: World) -> None:
    batches = deepcopy(kept.ledger.batches)
    for answered, ends in (("finalizing", 1), ("cancelling", 2)):
        for batch in batches.values():
            batch.cancel = answered
        found = violations(kept.data, Ledger(kept.ledger.uploads, batches))
        assert len(found) == ends and all("cancel" in one for one in found), found


def test_what_a_client_saw_is_held_against_it() -> None:
    first: dict[str, Any] = dict.fromkeys(
        ("in_progress_at", "finalizing_at", "completed_at", "failed_at", "expired_at", "cancelling_at", "cancelled_at")
    )
    first |= {"id": "b", "status": "in_progress", "created_at": 1, "in_progress_at": 2}
    first["request_counts"] = {"total": 9, "completed": 5, "failed": 0}
    for says, changes in {
        "validating after in_progress": {"status": "validating"},
        "in_progress_at was 2 and is 3": {"in_progress_at": 3},
        "completed ran back from 5 to 4": {"request_counts": {"total": 9, "completed": 4, "failed": 0}},
    }.items():
        ledger = Ledger()
        ledger.submitted(first, ["a"])
        ledger.saw(first)
        assert ledger.broken == []
        ledger.saw({**first, **changes})
        assert ledger.broken == [f"b: {says}"]
    ledger = Ledger()
    ended = {**first, "status": "cancelled"}
    ledger.submitted(ended, ["a"])
    ledger.saw({**ended, "metadata": {}})
    assert "has changed after its end" in ledger.broken[0]
