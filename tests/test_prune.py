"""Prune: what nothing refers to goes, in two visits; what was paid for, published or at work with stays; runs go on."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from embedfill.config import load
from embedfill.errors import UsageError
from embedfill.index.publish import current
from embedfill.prune import POINTS, WEEK_S, Options, Pruned, prune
from embedfill.retrieve import Retriever
from embedfill.run import Options as RunOptions
from tests.chain_fixtures import Chain, documents
from tests.cli_fixtures import Cli

ROWS = 30
_PRUNE_AND_DIE = """
import os, signal, sys
from pathlib import Path
from embedfill.config import load
from embedfill.prune import Options, prune

def at(point):
    if point == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    prune(load(Path(sys.argv[1])), Options(grace_s=0, keep=1, uploads=False, at=at))
"""
PAID = ("packs", "outcomes", "claims", "batches", "plans", "published")


def objects(chain: Chain, *kinds: str) -> set[str]:
    store = chain.folder / chain.store
    found = {path.relative_to(store).as_posix() for kind in kinds or ("",) for path in (store / kind).rglob("*")}
    return {name for name in found if (store / name).is_file() and not name.startswith("engine/")}


def grow_older(chain: Chain, seconds: float) -> None:
    """Sets back the time of every object."""
    store = chain.folder / chain.store
    for name in objects(chain):
        stat = (store / name).stat()
        os.utime(store / name, (stat.st_atime, stat.st_mtime - seconds))


def visit(chain: Chain, **options: Any) -> Pruned:
    return prune(chain.config(), Options(**{"uploads": False, "keep": 1, **options}))


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("twice")
    chain = Chain(folder).write(documents(range(ROWS)))
    chain.run()
    chain.write(documents(range(10, ROWS + 10))).run()
    return folder


@pytest.fixture
def twice(made_once: Path, tmp_path: Path) -> Chain:
    """Two publications: the first one's index, catalog and tables are of no use any more."""
    shutil.copytree(made_once, tmp_path / "copy")
    chain = Chain(tmp_path / "copy")
    chain.config()
    return chain


def check(chain: Chain, rows: int = ROWS) -> None:
    """A run pays nothing, and what is published can be searched."""
    summary = chain.run()
    assert (summary.documents, summary.batches) == (rows, 0)
    assert len(Retriever.open(chain.config()).search("river", 5)) == 5


def test_without_a_store_there_is_nothing_to_prune(chain: Chain) -> None:
    with pytest.raises(UsageError, match="no store"):
        visit(chain)
    assert not (chain.folder / "store").exists()


def test_what_is_young_stays(twice: Chain) -> None:
    before = objects(twice)
    assert not visit(twice).anything
    assert objects(twice) == before


def test_the_first_visit_lists_and_the_second_removes(twice: Chain) -> None:
    paid, old = objects(twice, *PAID), objects(twice)
    grow_older(twice, WEEK_S + 10)
    first = visit(twice)
    assert set(first.doomed) >= {"snapshots", "catalogs", "index"} and not first.removed
    assert objects(twice) == old | {"doomed/00000001.json"}
    early = visit(twice)
    assert not early.anything and early.waiting.objects == sum(one.objects for one in first.doomed.values())
    grow_older(twice, WEEK_S + 10)
    second = visit(twice)
    assert second.removed == first.doomed and not second.doomed
    assert objects(twice, *PAID) == paid
    assert objects(twice, "doomed", "sweeps") == set()
    assert not visit(twice).anything
    check(twice)


def test_the_newest_publications_are_kept_whole(twice: Chain) -> None:
    grow_older(twice, WEEK_S + 10)
    assert not visit(twice, keep=2).doomed.keys() & {"snapshots", "index", "catalogs"}
    assert visit(twice, keep=1).doomed["snapshots"].objects == 1


def test_a_dry_run_changes_nothing(twice: Chain) -> None:
    before = objects(twice)
    expected = visit(twice, grace_s=0, dry_run=True)
    assert expected.anything and expected.dry_run and objects(twice) == before
    assert visit(twice, grace_s=0).doomed == expected.doomed


def test_a_no_removes_nothing(twice: Chain) -> None:
    before = objects(twice)
    with pytest.raises(UsageError, match="nothing was removed"):
        visit(twice, grace_s=0, confirm=lambda _: False)
    assert objects(twice) == before


def test_what_is_doomed_and_then_used_again_is_spared(twice: Chain) -> None:
    """The corpus goes back to what it was: the first publication's objects come to honour again."""
    visit(twice, grace_s=0)
    first = objects(twice, "chunks")
    assert twice.write(documents(range(ROWS))).run().batches == 0
    assert "chunks" not in visit(twice, grace_s=0).removed and objects(twice, "chunks") == first
    check(twice)


KILLED = ["before-plan", "after-plan", "before-outcome", "after-index", "before-publication"]


@pytest.mark.parametrize("point", KILLED)
def test_what_a_killed_run_left_goes_and_what_it_needs_stays(chain: Chain, point: str) -> None:
    chain.write(documents(range(ROWS))).run_and_die(point)
    for _ in range(2):
        visit(chain, grace_s=0)
    summary = chain.run()
    assert (summary.documents, summary.texts) == (ROWS, ROWS)
    assert len(chain.submitted()) == 1
    check(chain)


def test_shards_of_a_plan_that_another_planner_made_go(twice: Chain) -> None:
    store = twice.folder / "store"
    shard = min(objects(twice, "shards"))
    orphan = store / Path(shard).with_name(f"{'0' * 32}.parquet")
    orphan.write_bytes(b"lost the race")
    newest_plan = max((store / name).stat().st_mtime for name in objects(twice, "plans"))
    os.utime(orphan, (0, newest_plan - 10))
    for _ in range(2):
        visit(twice, grace_s=0)
    assert not orphan.exists() and (store / shard).exists()


def test_shards_that_the_next_plan_may_name_stay(twice: Chain) -> None:
    """Put after the newest plan: its planner may have been killed before it could commit, and will put it again."""
    shard = min(objects(twice, "shards"))
    waiting = twice.folder / "store" / Path(shard).with_name(f"{'0' * 32}.parquet")
    waiting.write_bytes(b"about to be planned")
    for _ in range(2):
        visit(twice, grace_s=0)
    assert waiting.exists()


def test_packs_stay_as_long_as_anything_is_open(chain: Chain) -> None:
    """A run was killed between pack and outcome: the next one makes the very same pack."""
    chain.write(documents(range(ROWS))).run_and_die("before-outcome")
    packs = objects(chain, "packs")
    assert len(packs) == 2
    for _ in range(2):
        visit(chain, grace_s=0)
    assert objects(chain, "packs") == packs
    check_after = chain.run()
    assert check_after.embedded == ROWS and objects(chain, "packs") == packs


def test_packs_without_an_outcome_go_once_all_is_settled(twice: Chain) -> None:
    pack = next(name for name in objects(twice, "packs") if name.endswith(".parquet"))
    junk = twice.folder / "store" / Path(pack).with_name(f"{'0' * 32}.parquet")
    junk.write_bytes(b"junk")
    for _ in range(2):
        visit(twice, grace_s=0)
    assert not junk.exists() and len(objects(twice, "packs")) == 4


def test_paid_vectors_stay_where_the_records_of_a_space_are_lost(twice: Chain) -> None:
    packs = objects(twice, "packs")
    for name in objects(twice, "plans", "outcomes", "claims", "batches"):
        (twice.folder / "store" / name).unlink()
    for _ in range(2):
        visit(twice, grace_s=0)
    assert objects(twice, "packs") == packs


def test_what_a_run_that_left_is_at_work_with_stays(chain: Chain) -> None:
    """Batches may be out for longer than the grace: until it has published, only a pin holds the catalog."""
    chain.write(documents(range(ROWS)))
    assert not chain.run(RunOptions(wait=False)).finished
    catalog = objects(chain, "catalogs", "documents", "chunks")
    assert len(objects(chain, "pins")) == 1
    for _ in range(2):
        visit(chain, grace_s=0)
    assert objects(chain, "catalogs", "documents", "chunks") == catalog
    assert chain.run().texts == ROWS and objects(chain, "pins") == set()


@pytest.mark.parametrize("point", ["after-plan", "after-index", "before-snapshot", "before-publication"])
def test_prunes_in_the_midst_of_a_run_do_it_no_harm(twice: Chain, point: str) -> None:
    rows = documents(range(20, ROWS + 30))
    twice.write(rows)

    def at(here: str) -> None:
        if here == point:
            for _ in range(2):
                prune(load(twice.config_path), Options(grace_s=0, keep=1, uploads=False))

    assert twice.run(RunOptions(at=at)).documents == len(rows)
    check(twice, len(rows))
    project_store = objects(twice)
    snapshot = current_snapshot(twice)
    assert set(snapshot.index.files.values()) <= project_store


def current_snapshot(chain: Chain) -> Any:
    from embedfill.project import open_project

    project = open_project(load(chain.config_path), read_only=True)
    return current(project.store, project.cache).snapshot


@pytest.mark.parametrize("kind", ["catalogs", "documents", "chunks"])
def test_a_catalog_whose_parts_are_gone_is_made_anew(chain: Chain, kind: str) -> None:
    """As prune may take them from a run that slept."""
    chain.write(documents(range(ROWS)))
    assert not chain.run(RunOptions(wait=False)).finished
    for name in objects(chain, kind):
        (chain.folder / "store" / name).unlink()
    summary = chain.run()
    assert (summary.documents, summary.texts) == (ROWS, ROWS) and len(chain.submitted()) == 1


@pytest.mark.parametrize("point", [point for point in POINTS if "upload" not in point])
def test_a_kill_at_each_point_of_a_prune(twice: Chain, point: str) -> None:
    paid = objects(twice, *PAID)
    visit(twice, grace_s=0)
    command = [sys.executable, "-c", _PRUNE_AND_DIE, str(twice.config_path), point]
    died = subprocess.run(command, capture_output=True, check=False)
    assert died.returncode == -9, f"{point} was not passed: {died.stderr.decode()[-500:]}"
    check(twice)
    for _ in range(2):
        visit(twice, grace_s=0)
    assert objects(twice, *PAID) == paid
    assert len(objects(twice, "snapshots")) == 1 and objects(twice, "doomed") == set()
    check(twice)


def test_the_verb(cli: Cli, twice: Chain) -> None:
    path = twice.config_path
    assert "doomed" in cli("prune", path, "--dry-run", "--grace", "0s", "--keep", "1").out
    assert cli("prune", path, "--grace", "0s", "--keep", "1", "--json").error["code"] == "usage"
    ran = cli("prune", path, "--grace", "0s", "--keep", "1", "--yes", "--json")
    assert ran.code == 0 and ran.json["doomed"]["snapshots"]["objects"] == 1
    assert ran.json["uploads"] == {"objects": 0, "bytes": 0}
    assert "removed   snapshots   1 object" in cli("prune", path, "--grace", "0s", "--keep", "1", "--yes").out
    assert cli("prune", path).out == "nothing to prune\n"


@pytest.mark.parametrize("grace", ["7", "d", "-1d", "7 years", ""])
def test_what_is_no_time_is_refused(cli: Cli, chain: Chain, grace: str) -> None:
    chain.write(documents(range(1))).config()
    assert "--grace" in cli("prune", chain.config_path, "--grace", grace, "--json").error["message"]
