"""Two trackers on one store: at once, one that sleeps while the other goes on, both at the last dollar."""

from collections.abc import Callable

import pytest

from tests.crash_cases import Case, group
from tests.crash_world import Figures


@pytest.mark.parametrize("case", group("two"), ids=lambda case: case.name)
def test_the_kill_matrix(play: Callable[[Case], Figures], case: Case) -> None:
    play(case)
