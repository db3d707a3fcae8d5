"""A disk that is full, or becomes read-only, at a write of the engine: clients are told so, and work waits; once it can be
written again everything goes on, and nothing is lost. Only an engine that starts or stops on such a disk may end with an
error.

`CRASH_SEEDS=1 pytest tests/test_engine_crash_full.py` has it fail at every write that the scenes pass.
"""

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from embedfill.engine.state.database import Database
from embedfill.engine.state.spool import Result, Spool
from embedfill.errors import WorldError
from tests.crash_worker import Fault
from tests.engine_crash_world import SCENES, World, points, world

SEEDS = int(os.environ.get("CRASH_SEEDS", "0"))
WRITES = {
    "in_parts": ("before commit of Uploads.create", "half write in write_all", "before open in Uploads.add"),
    "small": (
        "before open in Files.adopt",
        "before commit of Batches.create",
        "before link in Spools.hold",
        "before commit of Batches.accept",
        "half pwrite of output in _write",
        "before commit of Spool.append",
        "before link in Files.link",
        "before open in Files.link",
        "before commit of Batches.end",
    ),
    "cancelled": ("before commit of Batches.cancel", "before pwrite of error in _write"),
    "collected": ("before commit of Files.delete",),
}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS], ids=errno.errorcode.__getitem__)
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_a_disk_that_fails(tmp_path: Path, scene: Callable[[World], None], number: int) -> None:
    chosen = WRITES.get(scene.__name__, ())[:: 1 if number == errno.ENOSPC else 2]
    if SEEDS:
        (tmp_path / "dry").mkdir()
        passed = points(tmp_path / "dry", scene)
        chosen = tuple(point for point in passed if not point.startswith("after"))
    for place, point in enumerate(chosen):
        noticed = play(tmp_path / str(place), scene, Fault(point, signal=-number))
        assert noticed or SEEDS, point


def play(folder: Path, scene: Callable[[World], None], fault: Fault) -> bool:
    """Whether somebody noticed that the disk failed."""
    folder.mkdir()
    with world(folder, fault) as made:
        try:
            scene(made)
            made.finish(again=fault.signal == -errno.EROFS)  # nothing can be deleted there, not even what is of no use
        except AssertionError as error:
            error.add_note(f"{scene.__name__}, {fault}: told {made.told} times, ended {made.ends} times")
            raise
        return made.room.exists()


def test_nothing_is_recorded_behind_a_record_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fails for one append while others wait: theirs would stand behind a gap that is written again."""
    database = Database(tmp_path / "engine.db")
    folder = tmp_path / "spool"
    folder.mkdir()
    spool = Spool(folder, 1, database)
    busy = threading.Event()
    waiting = database.write(lambda _connection: busy.wait(10.0))
    real, fails = os.fsync, [OSError(errno.ENOSPC, "full")]
    monkeypatch.setattr(os, "fsync", lambda descriptor: real(descriptor) if not fails else _raise(fails.pop()))
    appended = [spool.append([Result(line, "output", b"%d\n" % line)]) for line in range(1, 4)]
    busy.set()
    assert waiting.result()
    assert [type(one.exception()) for one in appended] == [OSError, WorldError, WorldError]
    assert not fails
    spool.close()
    again = Spool(folder, 1, database)
    assert again.finished() == set() and again.path("output").read_bytes() == b""
    again.append([Result(line, "output", b"%d\n" % line) for line in range(1, 4)]).result()
    assert again.path("output").read_bytes() == b"1\n2\n3\n" and again.finished() == {1, 2, 3}
    again.close()
    database.close()


def _raise(error: OSError) -> None:
    raise error
