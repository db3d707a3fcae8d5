"""A disk that is full, or becomes read-only, at a write of the engine: clients are told so, or the engine ends with an
error; once it can be written again everything goes on, and nothing is lost.

`CRASH_SEEDS=1 pytest tests/test_engine_crash_full.py` has it fail at every write that the scenes pass.
"""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

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
