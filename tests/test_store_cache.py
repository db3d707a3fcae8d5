"""The cache copies what is immutable, once, and is never needed for a result."""

import shutil
from pathlib import Path

import pytest

from embedfill.errors import MissingError, StoreError
from embedfill.store.base import Store
from embedfill.store.cache import Cache, default_root
from embedfill.store.cloud import CloudStore
from embedfill.store.local import LocalStore
from embedfill.store.memory import MemoryStore
from tests.s3_fixtures import S3


@pytest.fixture(params=["local", "memory", "cloud"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return LocalStore(tmp_path / "store")
    if request.param == "memory":
        return MemoryStore()
    s3: S3 = request.getfixturevalue("s3_server")
    return CloudStore(s3.url)


@pytest.fixture
def cache(store: Store, tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", store)


def test_gives_objects_as_files_and_bytes(cache: Cache) -> None:
    cache.store.create("packs/a.json", b'{"n": 1}')
    assert cache.path("packs/a.json").read_bytes() == b'{"n": 1}'
    assert cache.read("packs/a.json") == b'{"n": 1}'
    assert cache.json("packs/a.json") == {"n": 1}


def test_a_missing_object_is_missing_in_both_ways(cache: Cache) -> None:
    for call in (cache.path, cache.read, cache.json):
        with pytest.raises(MissingError):
            call("packs/none")
    assert not list(cache.root.rglob("*none*"))


def test_copies_once(tmp_path: Path) -> None:
    store = MemoryStore()
    store.create("k", b"immutable")
    cache = Cache(tmp_path, store)
    first = cache.path("k")
    store.delete("k")
    assert cache.path("k") == first
    assert cache.read("k") == b"immutable"


def test_no_copy_of_a_directory_store(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    store.create("k", b"x")
    cache = Cache(tmp_path / "cache", store)
    assert cache.path("k") == tmp_path / "store" / "k"
    assert cache.read("k") == b"x"
    assert not cache.root.exists()


def test_deleting_it_changes_no_result(cache: Cache) -> None:
    cache.store.create("k", b"data")
    assert cache.read("k") == b"data"
    cache.remember("facts/parts", {"a": 1})
    shutil.rmtree(cache.root, ignore_errors=True)
    assert cache.read("k") == b"data"
    assert cache.recall("facts/parts") is None


def test_remembers_the_latest(cache: Cache) -> None:
    assert cache.recall("parts") is None
    values: list[object] = [{"a": [1, None, "ü"]}, [], "text"]
    for value in values:
        cache.remember("parts", value)
        assert cache.recall("parts") == value


def test_a_damaged_fact_is_no_fact(cache: Cache) -> None:
    cache.remember("parts", {"a": 1})
    (cache.root / "facts" / "parts").write_bytes(b'{"a": ')
    assert cache.recall("parts") is None


def test_a_failed_fetch_leaves_nothing(tmp_path: Path) -> None:
    class Breaking(MemoryStore):
        def fetch(self, key: str, path: Path) -> None:
            path.write_bytes(b"half")
            raise StoreError("the line went dead")

    cache = Cache(tmp_path, Breaking())
    with pytest.raises(StoreError, match="line went dead"):
        cache.path("k")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = Cache(tmp_path / "file", MemoryStore())
    with pytest.raises(StoreError, match=f"cache {tmp_path}/file") as raised:
        cache.remember("parts", 1)
    assert "[cache] dir" in raised.value.hint
    with pytest.raises(StoreError, match=f"cache {tmp_path}/file"):
        cache.scratch("raw")


def test_what_killed_runs_left_is_cleared_but_for_downloads(cache: Cache) -> None:
    (cache.scratch("tables") / "half.parquet").write_bytes(b"x")
    (cache.scratch("outputs", "batch-1") / "output.jsonl.part").write_bytes(b"x")
    with cache.in_use():
        assert [path.name for path in (cache.root / "scratch").iterdir()] == ["outputs"]
        assert (cache.scratch("outputs", "batch-1") / "output.jsonl.part").exists()


def test_scratch_space_that_another_run_uses_is_left_alone(cache: Cache) -> None:
    with cache.in_use():
        (cache.scratch("tables") / "half.parquet").write_bytes(b"x")
        with cache.in_use():
            assert (cache.scratch("tables") / "half.parquet").exists()


def test_the_default_root_is_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_root() == tmp_path / "embedfill"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_root() == tmp_path / ".cache" / "embedfill"
