"""SIGKILL at every write that the engine makes, then clients go on: each batch ends, nothing is lost or run twice.

The points are found by playing a scene once and noting what it passes; each is then died at, before and after it.
`CRASH_SEEDS=1000 pytest tests/test_engine_crash.py` plays all of them, and as many kills at random calls of the code,
several in a row.
"""

import os
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.crash_worker import Fault
from tests.engine_crash_worker import CALL
from tests.engine_crash_world import SCENES, World, points, world

SEEDS = int(os.environ.get("CRASH_SEEDS", "0"))
NAMED = {  # the write order, as it is promised: these are among what the scenes pass
    "before fsync in Form.complete",  # an upload is received
    "after fsync in Form.complete",
    "after rename in Files.adopt",
    "before commit of Files.adopt",
    "after commit of Files.adopt",
    "before commit of Batches.create",
    "after commit of Batches.create",  # its answer is not given yet
    "before link in Spools.hold",
    "after link in Spools.hold",
    "before commit of Batches.accept",
    "after commit of Batches.accept",
    "before commit of Batches.refuse",
    "after commit of Batches.refuse",
    "half pwrite in _write",  # half a line is written
    "after pwrite in _write",
    "before commit of Spool.append",
    "after commit of Spool.append",
    "before commit of Batches.cancel",
    "after commit of Batches.cancel",
    "after commit of Batches.finalize",
    "after link in Files.link",
    "before commit of Batches.end",
    "after commit of Batches.end",
    "before unlink in Spools.remove",
    "after rmdir in Spools.remove",
    "after commit of Files.delete",
    "after commit of Uploads.create",
    "after rename in Uploads.add",
    "after commit of Uploads.add",
    "after commit of Uploads.cancel",
    "after commit of Uploads.sweep",
}
_CALLS = 20_000  # of the engine's code in a scene, about


@pytest.fixture(scope="module")
def passed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The points of each scene, without those that an earlier one has."""
    known: set[str] = set()
    found = {}
    for scene in SCENES:
        new = [point for point in points(tmp_path_factory.mktemp(scene.__name__), scene) if point not in known]
        found[scene.__name__] = new
        known.update(new)
    return found


def test_the_named_points_are_passed(passed: dict[str, list[str]]) -> None:
    assert NAMED - {point for new in passed.values() for point in new} == set()


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_killed_at_every_write(passed: dict[str, list[str]], tmp_path: Path, scene: Callable[[World], None]) -> None:
    chosen = [point for point in passed[scene.__name__] if SEEDS or point in NAMED or point.startswith("half")]
    kills = 0
    for number, point in enumerate(chosen):
        kills += play(tmp_path / str(number), scene, Fault(point))
    assert kills >= len(chosen) * 0.9, "faults that are never reached test nothing"


def play(folder: Path, scene: Callable[[World], None], *faults: Fault) -> int:
    folder.mkdir()
    with world(folder, *faults) as made:
        try:
            scene(made)
            made.finish()
        except AssertionError as error:
            error.add_note(f"{scene.__name__}, killed {made.kills} times of {faults}")
            raise
        return made.kills


@pytest.mark.parametrize("seed", range(max(SEEDS, 6)))
def test_killed_at_random_calls(tmp_path: Path, seed: int) -> None:
    """Several in a row: also while it recovers."""
    chance = Random(seed)
    faults = [Fault(CALL, int(_CALLS ** chance.uniform(0.3, 1))) for _ in range(chance.randrange(1, 5))]
    play(tmp_path / "seed", chance.choice(SCENES), *faults)
