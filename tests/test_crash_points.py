"""SIGKILL at every named point and in every part of the code, then the work goes on: nothing twice, nothing lost."""

from collections.abc import Callable

import pytest

from tests.crash_cases import Case, group
from tests.crash_world import Figures


@pytest.mark.parametrize("case", group("points"), ids=lambda case: case.name)
def test_the_kill_matrix(play: Callable[[Case], Figures], case: Case) -> None:
    play(case)
