"""SIGKILL at every write that the engine makes, then clients go on: each batch ends, nothing is lost or run twice.

`CRASH_SEEDS=1000 pytest tests/test_engine_crash.py` dies at all points that the scenes pass, not only at those named
here, and at as many random calls of the code, several in a row.
"""

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from embedfill.engine.state.schema import STEPS
from tests.crash_worker import Fault
from tests.engine_crash_worker import CALL
from tests.engine_crash_world import SCENES, World, points, world
from tests.engine_fixtures import ENDED, jsonl, request_line

SEEDS = int(os.environ.get("CRASH_SEEDS", "0"))
POINTS = {
    "in_parts": (
        "after commit of Uploads.create",
        "half write in write_all",
        "after rename in Uploads.add",
        "after commit of Uploads.add",
        "after fsync in Uploads._join",
        "after rename in Files.adopt",
        "after commit of Files.adopt",
        "after commit of Uploads.cancel",
        "after unlink in Uploads._remove",
    ),
    "small": (
        "after the tables are made",
        "after fsync in Form.complete",  # an upload is received
        "before commit of Files.adopt",
        "before commit of Batches.create",
        "after commit of Batches.create",  # it was not answered
        "after mkdir in Spools.hold",
        "after link in Spools.hold",
        "before commit of Batches.accept",
        "after commit of Batches.accept",
        "half pwrite of output in _write",
        "after pwrite of output in _write",
        "after commit of Spool.append",
        "after commit of Batches.finalize",
        "after link in Files.link",
        "before commit of Batches.end",
        "after commit of Batches.end",
        "after unlink in Spools.remove",
        "after commit of Files.delete",
    ),
    "refused": ("before commit of Batches.refuse", "after commit of Batches.refuse"),
    "cancelled": (
        "before commit of Batches.cancel",
        "after commit of Batches.cancel",
        "half pwrite of error in _write",  # the requests that were not run are written off
        "after pwrite of error in _write",
        "after link in Files.link",
        "after commit of Batches.end",
    ),
    "expired": ("half pwrite of error in _write", "before commit of Batches.end", "after commit of Batches.end"),
    "collected": ("after commit of Files.delete",),
}
IN_A_ROW = {  # the second kill comes while what the first one left is mended
    "in_parts": ("after rename in Uploads.add", "before unlink in Uploads._remove", "after unlink in Uploads._remove"),
    "small": (
        "half pwrite of output in _write",
        "before ftruncate in Spool._open",
        "after ftruncate in Spool._open",
    ),
    "refused": ("after link in Spools.hold", "before commit of Batches.refuse", "after commit of Batches.refuse"),
    "cancelled": ("after commit of Batches.cancel", "after pwrite of error in _write", "before commit of Batches.end"),
    "expired": ("before commit of Batches.end", "after link in Files.link", "after commit of Batches.end"),
}
_CALLS = 20_000  # of the engine's code in a scene, about


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_killed_at_every_write(tmp_path: Path, scene: Callable[[World], None]) -> None:
    for number, point in enumerate(POINTS[scene.__name__]):
        assert play(tmp_path / str(number), scene, Fault(point)) == 1, point


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_killed_again_while_it_recovers(tmp_path: Path, scene: Callable[[World], None]) -> None:
    row = IN_A_ROW.get(scene.__name__, ())
    assert play(tmp_path / "row", scene, *map(Fault, row)) == len(row)


@pytest.mark.parametrize("seed", range(max(SEEDS, 6)))
def test_killed_at_random_calls(tmp_path: Path, seed: int) -> None:
    """Several in a row: also while it recovers."""
    chance = Random(seed)
    faults = [Fault(CALL, int(_CALLS ** chance.uniform(0.3, 1))) for _ in range(chance.randrange(1, 5))]
    play(tmp_path / "seed", chance.choice(SCENES), *faults)


def test_killed_while_tables_of_an_older_engine_are_changed(tmp_path: Path) -> None:
    """Its files and batches are there afterwards, and the batch that had not ended is run."""
    faults = [Fault(f"{when} the tables are made") for when in ("before", "after", "before")]
    with world(tmp_path, *faults) as made:
        data = jsonl([request_line("a", "text")])
        (made.data / "files").mkdir(parents=True)
        (made.data / "files" / "file-old").write_bytes(data)
        connection = sqlite3.connect(made.data / "engine.db")
        connection.executescript(STEPS[0] + "PRAGMA user_version = 1;")
        connection.execute("INSERT INTO files VALUES (1, 'file-old', ?, 1, 'a.jsonl', 'batch', NULL)", (len(data),))
        connection.execute(
            "INSERT INTO batches (id, endpoint, input_file_id, completion_window, status, created_at, expires_at, request)"
            " VALUES ('batch_old', '/v1/embeddings', 'file-old', '24h', 'validating', 1, 9999999999, '{}')"
        )
        connection.commit()
        connection.close()
        batch = made.until("batch_old", lambda batch: batch["status"] in ENDED)
        assert batch["request_counts"] == {"total": 1, "completed": 1, "failed": 0}
        made.finish()
    assert made.kills >= 2  # nothing is left to be changed once it was


@pytest.mark.skipif(not SEEDS, reason="minutes: CRASH_SEEDS=1000 runs it")
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_killed_at_whatever_is_passed(tmp_path: Path, scene: Callable[[World], None]) -> None:
    (tmp_path / "dry").mkdir()
    for number, point in enumerate(points(tmp_path / "dry", scene)):
        play(tmp_path / str(number), scene, Fault(point))


def play(folder: Path, scene: Callable[[World], None], *faults: Fault) -> int:
    """How often the engine was killed."""
    folder.mkdir()
    with world(folder, *faults) as made:
        try:
            scene(made)
            made.finish()
        except AssertionError as error:
            error.add_note(f"{scene.__name__}, killed {made.kills} times of {faults}")
            raise
        return made.kills
