"""Kills while answers are lost, listings late, the corpus, the template or the configuration others, the cache gone."""

from collections.abc import Callable

import pytest

from tests.crash_cases import Case, group
from tests.crash_world import Figures


@pytest.mark.parametrize("case", group("world"), ids=lambda case: case.name)
def test_the_kill_matrix(play: Callable[[Case], Figures], case: Case) -> None:
    play(case)
