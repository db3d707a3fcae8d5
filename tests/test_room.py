"""Disk space: what each folder will hold more, where it is, and whether disks that are shared have enough."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from embedfill.project import Project, open_project
from embedfill.room import Room, Work, rooms
from embedfill.store.cache import Cache
from embedfill.store.memory import MemoryStore
from tests.chain_fixtures import Chain

WORK = Work().add(1000, 50_000, 400_000).add(500, 30_000, 200_000)


@pytest.fixture
def project(chain: Chain) -> Project:
    return open_project(chain.config())


def look(project: Project, texts: int = 1500) -> dict[str, Room]:
    return rooms(project, WORK, 10, texts, texts)


def test_batches_add_up_and_the_largest_is_kept() -> None:
    assert Work(1500, 80_000, 600_000, 1000, 50_000, 400_000) == WORK


def test_vectors_are_reckoned_by_their_dimensions(project: Project) -> None:
    found = look(project)
    assert found["store"].parts["packs"] == 1500 * (4 * 256 + 40)
    assert found["cache"].parts["pack"] == 1000 * (4 * 256 + 40)
    assert (found["cache"].parts["batch_file"], found["cache"].parts["output_files"]) == (50_000, 400_000)
    assert found["engine"].parts == {"batch_files": 80_000, "results": 600_000, "output_files": 600_000}
    assert found["store"].parts["index"] > 1500 * 4 * 256


def test_a_large_index_is_codes_and_half_precision_vectors(project: Project) -> None:
    flat, lists = look(project, 20_000), look(project, 200_000)
    assert flat["store"].parts["index"] / 20_000 == pytest.approx(1024 + 8 + 52, rel=0.01)
    assert lists["store"].parts["index"] / 200_000 == pytest.approx(512 + 64 + 8 + 52, rel=0.03)


def test_nothing_to_send_needs_nothing(project: Project) -> None:
    assert {name: room.needed for name, room in rooms(project, Work(), 10, 10, 10).items()} == {
        "store": 0, "cache": 0, "engine": 0,
    }  # fmt: skip


def test_a_bucket_has_no_end_but_the_cache_keeps_copies(project: Project, tmp_path: Path) -> None:
    store = MemoryStore()
    remote = replace(project, store=store, cache=Cache(tmp_path / "far" / "cache", store))
    found = look(remote)
    assert (found["store"].free, found["store"].path, found["store"].short) == (None, "memory://", False)
    assert found["cache"].parts["copies"] == found["store"].needed
    assert found["cache"].free and not (tmp_path / "far").exists()


def test_only_the_local_engine_keeps_files_here(chain: Chain) -> None:
    settings = {"provider": "openai", "model": "text-embedding-3-small"}
    assert set(look(open_project(chain.config(embedding=settings)))) == {"store", "cache"}


def test_folders_of_one_disk_share_what_is_free(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = [room.needed for room in look(project).values()]
    assert max(needed) < sum(needed) - 1
    for free, short in ((sum(needed), False), (sum(needed) - 1, True)):
        usage = shutil._ntuple_diskusage(2 * free, free, free)
        monkeypatch.setattr(shutil, "disk_usage", lambda _, usage=usage: usage)
        assert [room.short for room in look(project).values()] == [short] * 3
