"""SIGKILL of whole runs, from Parquet files to the published index."""

from collections.abc import Callable

import pytest

from tests.crash_cases import Case, group
from tests.crash_world import Figures


@pytest.mark.parametrize("case", group("run"), ids=lambda case: case.name)
def test_the_kill_matrix(play: Callable[[Case], Figures], case: Case) -> None:
    play(case)
