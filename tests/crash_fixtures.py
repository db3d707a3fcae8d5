"""Fresh worlds for the tests that kill."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.crash_cases import Case
    from tests.crash_world import Figures


@pytest.fixture
def play(tmp_path: Path) -> "Callable[[Case], Figures]":
    """Plays one case of the kill matrix in a world of its own; it asserts by itself."""
    from tests.crash_world import new_world  # later: it imports fixtures that pytest must load itself

    def once(case: "Case") -> "Figures":
        with new_world(tmp_path, case.world) as world:
            return case.play(world)

    return once
