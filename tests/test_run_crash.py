"""SIGKILL a run, its engine or both, then run again: nothing lost, nothing submitted twice, no line run twice.

The whole chain with the engine it starts itself; the kill matrix is in tests/test_crash_*.py.
"""

import random
import time
from collections.abc import Callable

import pytest

from tests.chain_fixtures import Chain, documents

# Those where the engine has something in hand. tests/test_crash_run.py has every point, with a provider that outlives all.
POINTS = ["after-claim", "before-reference", "after-download", "before-outcome", "before-publication"]
ROWS, BATCHES = 250, 3


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The vectors of a run that nobody kills."""
    chain = Chain(tmp_path_factory.mktemp("undisturbed")).write(documents(range(ROWS)))
    chain.run()
    return chain.vectors()


def check(chain: Chain, undisturbed: dict[str, bytes]) -> None:
    """The run after the kills ends well, and the engine's record shows nothing done twice."""
    summary = chain.run()
    assert (summary.documents, summary.texts, summary.rejected) == (ROWS, ROWS, 0)
    assert chain.vectors() == undisturbed
    submitted = chain.submitted()
    assert len(submitted) == BATCHES and len({name.rpartition("-")[0] for name in submitted}) == BATCHES
    lines, most_runs = chain.lines_run()
    assert (lines, most_runs) == (ROWS // 10, 1)


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_each_point_of_the_write_order(chain: Chain, undisturbed: dict[str, bytes], point: str) -> None:
    chain.write(documents(range(ROWS))).run_and_die(point)
    check(chain, undisturbed)


def test_kills_at_one_point_after_another_of_the_same_store(chain: Chain, undisturbed: dict[str, bytes]) -> None:
    chain.write(documents(range(ROWS)))
    for point in ("after-claim", "before-reference", "before-outcome", "before-publication"):
        chain.run_and_die(point)
    check(chain, undisturbed)


@pytest.mark.parametrize("seed", range(6))
def test_kills_at_random_moments(chain: Chain, undisturbed: dict[str, bytes], seed: int) -> None:
    """Three kills in a row, at any moment, of the run, its engine, or both."""
    chance = random.Random(seed)
    chain.write(documents(range(ROWS)))
    for _ in range(3):
        process = chain.start()
        time.sleep(chance.uniform(0.3, 2.5))
        victim = chance.choice(["run", "engine", "both"])
        if victim != "engine":
            process.kill()
        if victim != "run":
            chain.kill_engine()
        process.communicate(timeout=60)
        if victim == "engine":
            assert process.returncode in (0, 1)
    check(chain, undisturbed)


def test_two_runs_at_once_pay_once(chain: Chain, undisturbed: dict[str, bytes]) -> None:
    chain.write(documents(range(ROWS)))
    processes = [chain.start() for _ in range(2)]
    for process in processes:
        output = process.communicate(timeout=120)
        assert process.returncode == 0, output
    check(chain, undisturbed)


def test_two_corpora_in_one_store_do_not_disturb_each_other(chain: Chain, new_chain: Callable[[str], Chain]) -> None:
    other = new_chain("other")
    other.store = str(chain.folder / "store")
    chain.write(documents(range(40))).run()
    summary = other.write(documents(range(30, 60))).run()
    assert (summary.documents, summary.embedded) == (30, 20)
