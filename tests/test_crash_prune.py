"""SIGKILL of prunes, and prunes while a run is at work: what is published stays whole, nothing is paid again."""

from collections.abc import Callable

import pytest

from tests.crash_cases import Case, group
from tests.crash_world import Figures


@pytest.mark.parametrize("case", group("prune"), ids=lambda case: case.name)
def test_the_kill_matrix(play: Callable[[Case], Figures], case: Case) -> None:
    play(case)
