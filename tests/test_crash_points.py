"""SIGKILL at every named point and in every part of the code, then the work goes on: nothing twice, nothing lost."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

import embedfill
from embedfill.prune import POINTS as PRUNE_POINTS
from tests.crash_cases import CANCEL_POINTS, DOUBT_POINTS, OTHER_POINTS, POINTS, RUN_POINTS, Case, group
from tests.crash_world import Figures


@pytest.mark.parametrize("case", group("points"), ids=lambda case: case.name)
def test_the_kill_matrix(play: Callable[[Case], Figures], case: Case) -> None:
    play(case)


def test_every_named_point_is_one_of_the_matrix() -> None:
    """But for one of the synchronous endpoint, where a kill may cost its request once more: it is tested there."""
    sources = [path.read_text() for path in Path(embedfill.__file__).parent.rglob("*.py")]
    named = {point for source in sources for point in re.findall(r"\bat\(\s*\"([^\"]+)\"", source)}
    assert named == {*POINTS, *RUN_POINTS, *PRUNE_POINTS, *CANCEL_POINTS, *DOUBT_POINTS, *OTHER_POINTS, "after-answer"}
