"""Pins and sweeps: a run that refers to an object, and a prune that removes it, always see one another."""

from collections.abc import Iterator
from dataclasses import asdict, replace

import pytest

from embedfill import ids
from embedfill.clock import Clock
from embedfill.records import Maker
from embedfill.store import layout
from embedfill.store.base import Entry, Store
from embedfill.store.memory import MemoryStore
from embedfill.tracker.maker import this_maker
from embedfill.tracker.sweeps import SWEEP_S, Pins, absent, at_work, sweeping
from tests.tracker_fixtures import dead_maker, foreign_maker, make_older

KEYS = {"documents/a.parquet", "chunks/spec/b.parquet"}


@pytest.fixture
def store() -> Store:
    made = MemoryStore()
    for key in KEYS:
        made.create(key, b"x")
    made.create(layout.doomed(1), ids.canonical({"keys": sorted(KEYS)}))
    made.create(layout.doomed(2), ids.canonical({"keys": ["documents/other.parquet"]}))
    return made


def mark(store: Store, maker: Maker) -> str:
    """What a prune of that maker left."""
    key = layout.sweep("left")
    store.create(key, ids.canonical({"lists": [1], "maker": asdict(maker)}))
    return key


def test_a_sweep_is_at_work_until_it_ends(store: Store) -> None:
    assert not at_work(store)
    with sweeping(store, [1]):
        assert at_work(store)
    assert not at_work(store) and list(store.list("sweeps/")) == []


def test_a_sweep_is_at_work_only_on_what_it_sweeps(store: Store) -> None:
    with sweeping(store, [2]):
        assert at_work(store) and not at_work(store, KEYS) and at_work(store, {"documents/other.parquet"})
        store.delete(layout.doomed(2))
        assert not at_work(store, {"documents/other.parquet"})


def test_the_mark_of_a_dead_prune_says_nothing(store: Store) -> None:
    mark(store, dead_maker())
    assert not at_work(store)


@pytest.mark.parametrize(("age_s", "over"), [(0.0, False), (SWEEP_S, False), (2 * SWEEP_S + 5, True)])
def test_the_mark_of_a_prune_elsewhere_holds_for_as_long_as_it_may_take(store: Store, age_s: float, over: bool) -> None:
    make_older(store, mark(store, foreign_maker()), age_s)
    assert at_work(store) is not over


def test_a_sweep_stops_by_itself_long_before_that() -> None:
    now = [1000.0]
    store = MemoryStore(now=lambda: now[0])
    with sweeping(store, []) as may_go_on:
        now[0] += SWEEP_S - 1
        assert may_go_on()
        now[0] += 2
        assert not may_go_on()


def test_a_pin_names_what_it_holds_and_is_gone_in_the_end(store: Store) -> None:
    pins = Pins(store)
    assert pins.hold(KEYS) == pins.hold(KEYS) == set()
    assert len(list(store.list("pins/"))) == 1  # one a day, however often
    pins.release()
    assert list(store.list("pins/")) == []


def test_who_pins_waits_for_a_sweep_that_is_at_it_and_sees_what_it_took(store: Store) -> None:
    key = mark(store, this_maker())
    naps = []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        store.delete("documents/a.parquet")
        if len(naps) == 3:
            store.delete(key)

    assert Pins(store, Clock(sleep=sleep)).hold(KEYS) == {"documents/a.parquet"}
    assert len(naps) == 3


def test_the_pin_stands_before_anybody_looks(store: Store) -> None:
    """Else a sweep could begin, and miss it, between the look and the pin."""
    order: list[str] = []

    class Watched(MemoryStore):
        def create(self, key: str, data: bytes) -> bool:
            order.append(f"create {layout.kind_of(key)}")
            return super().create(key, data)

        def list(self, prefix: str, start_after: str = "") -> Iterator[Entry]:
            order.append(f"list {prefix}")
            return super().list(prefix, start_after)

    Pins(Watched()).hold(KEYS)
    assert order[:2] == ["create pins", "list sweeps/"] and set(order[2:]) == {"list documents/", "list chunks/spec/"}


def test_what_is_absent(store: Store) -> None:
    assert absent(store, {*KEYS, "documents/c.parquet", "index/d/e"}) == {"documents/c.parquet", "index/d/e"}
    assert absent(store, []) == set()


def test_a_maker_that_lives_here_is_believed(store: Store) -> None:
    mark(store, replace(this_maker()))
    assert at_work(store, KEYS)
