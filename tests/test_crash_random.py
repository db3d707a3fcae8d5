"""SIGKILL at random calls of our code, several in a row, then the work goes on: nothing twice, nothing lost.

`MISCHIEF_SEEDS=5000 pytest tests/test_crash_random.py` plays that many instead of 100.
"""

from collections.abc import Callable

import pytest

from tests.crash_cases import Case, random_cases
from tests.crash_world import Figures


@pytest.mark.parametrize("case", random_cases(), ids=lambda case: case.name)
def test_the_kill_matrix(play: Callable[[Case], Figures], case: Case) -> None:
    play(case)
