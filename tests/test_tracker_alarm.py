"""Batches near the end of their window are told of, once each."""

from typing import Any

import pytest

from embedfill.batchapi.models import Batch
from embedfill.records import Shard
from embedfill.store.memory import MemoryStore
from embedfill.tracker.alarm import Alarm, length_s
from embedfill.tracker.state import ShardState
from tests.tracker_fixtures import Tracker
from tests.virtual_fixtures import VirtualClock

HOUR = 3600.0


def batch(name: str = "batch-1", **values: Any) -> Batch:
    told = {"id": name, "input_file_id": "f", "status": "in_progress", "created_at": 1000, "expires_at": 1000 + 86_400}
    return Batch.model_validate({**told, **values})


def submitted(name: str, claimed_at: float) -> ShardState:
    return ShardState(Shard(name, "key", 1, 1, 1, 1), 1, claimed_at, name)


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def alarm(tracker: Tracker, virtual: VirtualClock, notes: list[str]) -> Alarm:
    tracker.account.store, tracker.account.clock = MemoryStore(virtual.time), virtual.clock
    return Alarm(tracker.account, notes.append)


def test_a_batch_that_nears_its_window_is_told_of_once(alarm: Alarm, virtual: VirtualClock, notes: list[str]) -> None:
    shard = submitted("batch-1", virtual.time())
    hours: list[int] = []
    for hour in range(24):
        alarm.look([shard], {"batch-1": batch()})
        hours += [hour] * (len(notes) - len(hours))
        virtual.sleep(HOUR)
    assert hours == [20] and "batch-1 has run for 20.0 of its 24 hours" in notes[0]


def test_what_has_ended_or_is_gone_or_is_young_is_not(alarm: Alarm, virtual: VirtualClock, notes: list[str]) -> None:
    old, young = virtual.time() - 23 * HOUR, virtual.time() - HOUR
    shards = [
        submitted("ended", old),
        submitted("gone", old),
        submitted("young", young),
        submitted("new", float("inf")),
    ]
    batches = {"ended": batch("ended", status="expired"), "gone": None, "young": batch("young"), "new": batch("new")}
    alarm.look(shards, batches)
    assert notes == []


def test_the_clock_of_the_store_is_not_asked_in_every_round(alarm: Alarm, virtual: VirtualClock) -> None:
    shards = [submitted("batch-1", virtual.time())]
    created = []
    store = alarm.account.store
    create = store.create
    store.create = lambda key, data: created.append(key) or create(key, data)  # type: ignore[method-assign, func-returns-value]
    for _ in range(100):
        alarm.look(shards, {"batch-1": batch()})
        virtual.sleep(30.0)
    assert len(created) <= 6


@pytest.mark.parametrize(
    ("values", "seconds"),
    [
        ({}, 86_400.0),
        ({"expires_at": None, "completion_window": "12h"}, 43_200.0),
        ({"expires_at": None, "completion_window": "soon"}, 0.0),
    ],
)
def test_the_window_of_a_batch(values: dict[str, Any], seconds: float) -> None:
    assert length_s(batch(**values)) == seconds
