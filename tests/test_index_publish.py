"""Snapshots and publications: the newest counts, and of two that are made at once one does."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from embedfill.config import IndexConfig
from embedfill.errors import MissingError
from embedfill.index.publish import Publication, content_of, current, load, publish, save
from embedfill.records import Counts, IndexManifest, Snapshot, Space
from embedfill.store import layout
from embedfill.store.cache import Cache
from embedfill.store.memory import MemoryStore

SPACE = Space("m", 4, "local", "local")
MANIFEST = IndexManifest("Flat", 3, 4, "cosine", 1.0, 99, {"queries": 3}, {"index.faiss": "index/x/index.faiss"})
SNAPSHOT = Snapshot("content", "catalog", SPACE, ("p1", "p2"), MANIFEST, Counts(1, 2, 3, 4), "{text}", "{query}")


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def cache(store: MemoryStore, tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", store)


def test_nothing_is_published_at_first(store: MemoryStore, cache: Cache) -> None:
    assert current(store, cache) == Publication(0, "", None)


def test_a_snapshot_comes_back_equal_under_its_contents_name(store: MemoryStore, cache: Cache) -> None:
    name = save(store, SNAPSHOT)
    assert load(cache, name) == SNAPSHOT
    assert save(store, SNAPSHOT) == name != save(store, replace(SNAPSHOT, template="{text}."))
    with pytest.raises(MissingError):
        load(cache, "0" * 32)


def test_a_snapshot_alone_is_not_published(store: MemoryStore, cache: Cache) -> None:
    save(store, SNAPSHOT)
    assert current(store, cache).snapshot is None


def test_the_newest_publication_is_current_also_past_nine(store: MemoryStore, cache: Cache) -> None:
    for number in range(12):
        snapshot = replace(SNAPSHOT, catalog=str(number))
        name = save(store, snapshot)
        assert publish(store, name, parent=number)
        assert current(store, cache) == Publication(number + 1, name, snapshot)


def test_of_two_with_one_parent_only_the_first_is_published(store: MemoryStore, cache: Cache) -> None:
    one, other = save(store, SNAPSHOT), save(store, replace(SNAPSHOT, catalog="other"))
    assert publish(store, one, 0)
    assert not publish(store, other, 0)
    assert current(store, cache).name == one
    assert publish(store, one, 0)  # again: the answer to our own may have been lost
    assert publish(store, other, 1)


def test_a_publication_is_never_taken_from_the_cache(store: MemoryStore, cache: Cache) -> None:
    publish(store, save(store, SNAPSHOT), 0)
    current(store, cache)
    assert not list((cache.root / "objects").glob(f"{layout.PUBLISHED}*"))


def test_everything_that_decides_a_snapshot_changes_its_content() -> None:
    plain: dict[str, Any] = {
        "catalog": "c", "packs": ["p"], "space": SPACE, "index": IndexConfig(), "query_template": "{query}",
    }  # fmt: skip
    changed = [
        {"catalog": "d"}, {"packs": ["p", "q"]}, {"packs": []}, {"space": replace(SPACE, dimensions=5)},
        {"space": replace(SPACE, origin="http://other")}, {"index": IndexConfig(target_recall=0.9)},
        {"index": IndexConfig(memory=10**9)}, {"query_template": "q: {query}"},
    ]  # fmt: skip
    contents = [content_of(**{**plain, **change}) for change in [{}, *changed]]
    assert len(set(contents)) == len(contents)
    assert content_of(**plain) == contents[0]
