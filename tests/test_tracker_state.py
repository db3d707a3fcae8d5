"""The state of every shard follows from the objects of the store, in whatever order they are seen."""

import math
from pathlib import Path

import numpy as np
import pytest

from embedfill import ids
from embedfill.errors import MissingError, StoreError
from embedfill.records import Outcome
from embedfill.store import layout
from embedfill.tracker.state import State, Status, read_reference, reference, store_time
from embedfill.tracker.submit import submit
from tests.tracker_fixtures import SPACE, Tracker, texts_of


def seen(tracker: Tracker) -> State:
    """The state as a run that has just begun sees it."""
    return tracker.again().state.refresh()


def counts(state: State) -> dict[Status, int]:
    found = [shard.status for shard in state.shards.values()]
    return {status: found.count(status) for status in Status if status in found}


def test_a_shard_goes_from_planned_to_settled(tracker: Tracker) -> None:
    shard = tracker.planned("a", "b")
    assert counts(seen(tracker)) == {Status.PLANNED: 1}
    tracker.account.at = lambda point: seen_at.append((point, counts(seen(tracker))))
    seen_at: list[tuple[str, dict[Status, int]]] = []
    submit(tracker.account, shard)
    assert dict(seen_at)["before-claim"] == {Status.PLANNED: 1}
    assert dict(seen_at)["after-claim"] == dict(seen_at)["before-reference"] == {Status.CLAIMED: 1}
    assert counts(seen(tracker)) == counts(tracker.state) == {Status.SUBMITTED: 1}
    tracker.advance()
    assert counts(seen(tracker)) == counts(tracker.state) == {Status.SETTLED: 1}
    assert tracker.state.open() == []


def test_a_void_claim_makes_a_shard_planned_again(tracker: Tracker) -> None:
    shard = tracker.planned("a")
    submit(tracker.account, shard)
    other = tracker.planned("b")
    tracker.account.store.create(layout.claim(SPACE, other.shard.id, 1), b"{}")
    tracker.account.store.create(layout.batch(SPACE, other.shard.id, 1), reference(None, "why"))
    state = seen(tracker)
    assert counts(state) == {Status.SUBMITTED: 1, Status.PLANNED: 1}
    assert state.shards[other.shard.id].attempt == 1
    tracker.account.store.create(layout.claim(SPACE, other.shard.id, 2), b"{}")
    assert seen(tracker).shards[other.shard.id].status is Status.CLAIMED
    assert state.refresh().shards[other.shard.id].status is Status.CLAIMED


def test_only_the_newest_claim_counts(tracker: Tracker) -> None:
    shard = tracker.planned("a")
    for attempt, batch_id in [(1, None), (2, None), (3, "batch-3")]:
        tracker.account.store.create(layout.claim(SPACE, shard.shard.id, attempt), b"%d" % attempt)
        tracker.account.store.create(layout.batch(SPACE, shard.shard.id, attempt), reference(batch_id))
    found = seen(tracker).shards[shard.shard.id]
    assert (found.attempt, found.batch_id, found.void) == (3, "batch-3", False)


def test_a_reference_seen_before_its_claim_waits_for_it(tracker: Tracker) -> None:
    """Listings are not taken at one moment."""
    shard = tracker.planned("a")
    tracker.account.store.create(layout.batch(SPACE, shard.shard.id, 1), reference("batch-1"))
    state = seen(tracker)
    assert state.shards[shard.shard.id].status is Status.PLANNED
    tracker.account.store.create(layout.claim(SPACE, shard.shard.id, 1), b"{}")
    assert state.refresh().shards[shard.shard.id].status is Status.SUBMITTED


def test_an_outcome_seen_before_its_plan_settles_the_shard(tracker: Tracker) -> None:
    """Another run planned, submitted and settled while our listing of plans was on its way."""
    late = tracker.again()
    listing = late.account.store.list

    def list_(prefix: str, start_after: str = "") -> object:
        found = list(listing(prefix, start_after))
        if prefix == layout.plan(SPACE) and not tracker.state.shards:
            tracker.embed(texts_of(3))
        return iter(found)

    late.state.store = _Listing(late.account.store, list_)
    late.state.refresh()
    assert len(late.state.outcomes) == 1 and not late.state.shards
    assert counts(late.state.refresh()) == {Status.SETTLED: 1}


class _Listing:
    """A store with another `list`."""

    def __init__(self, store: object, list_: object) -> None:
        self._store = store
        self.list = list_

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)


def test_the_time_of_a_claim_is_the_stores(tracker: Tracker) -> None:
    shard = tracker.planned("a")
    before = store_time(tracker.account.store)
    submit(tracker.account, shard)
    assert shard.claimed_at == math.inf  # not known yet: younger than anything
    tracker.state.refresh()
    assert before <= shard.claimed_at <= store_time(tracker.account.store)


def test_to_ask_the_stores_time_leaves_nothing_behind(tracker: Tracker) -> None:
    assert store_time(tracker.account.store) > 1e9
    assert tracker.keys("") == []


def test_a_claim_is_read_as_it_was_written(tracker: Tracker) -> None:
    shard = tracker.planned("a", "b")
    with pytest.raises(MissingError):
        tracker.state.claim(shard)
    submit(tracker.account, shard)
    claim = tracker.state.claim(shard)
    assert (claim.shard, claim.attempt, claim.maker) == (shard.shard.id, 1, tracker.account.maker)
    assert (claim.tokens, claim.price_usd, claim.file_id) == (2, 0.002, "file-1")


def test_in_flight_and_have(tracker: Tracker) -> None:
    tracker.embed(texts_of(3))
    tracker.plan(texts_of(5))
    state = seen(tracker)
    assert ids.tolist(state.in_flight().sorted()) == sorted(ids.text_id(text) for text in texts_of(2, start=3))
    assert ids.tolist(state.have().sorted()) == sorted(ids.text_id(text) for text in texts_of(3))
    empty = State(tracker.account.store, tracker.account.cache, "another-space").refresh()
    assert len(empty.in_flight()) == len(empty.have()) == 0
    assert isinstance(empty.have().has(ids.array([b"x" * 16])), np.ndarray)


def test_a_retired_shard_is_out_of_the_way(tracker: Tracker) -> None:
    shard = tracker.planned("a")
    plan = {"number": 2, "space": SPACE, "shards": [], "retired": [[shard.shard.id, 1]]}
    tracker.account.store.create(layout.plan(SPACE, 2), ids.canonical(plan))
    assert seen(tracker).open() == []
    assert [one.texts for one in tracker.again().plan(["a"])] == [1]


def test_a_later_claim_stands_against_a_retirement_while_it_is_open(tracker: Tracker) -> None:
    """Whoever closed the shard slept; meanwhile its claim was void and another tracker took the shard."""
    shard = tracker.planned("a")
    plan = {"number": 2, "space": SPACE, "shards": [], "retired": [[shard.shard.id, 0]]}
    assert submit(tracker.account, shard)
    tracker.account.store.create(layout.plan(SPACE, 2), ids.canonical(plan))
    assert [one.status for one in seen(tracker).open()] == [Status.SUBMITTED]
    assert len(seen(tracker).in_flight()) == 1


def test_tokens_that_are_out(tracker: Tracker) -> None:
    first = tracker.planned("a", "b")
    tracker.planned("c")
    assert tracker.state.open_tokens() == 0
    submit(tracker.account, first)
    assert tracker.state.open_tokens() == seen(tracker).open_tokens() == 2
    tracker.advance()
    assert tracker.state.open_tokens() == 0
    assert tracker.state.spent_usd() == pytest.approx(0.003)


def test_what_is_immutable_is_read_once(tracker: Tracker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tracker.embed(texts_of(12))
    state = seen(tracker)
    monkeypatch.setattr(type(tracker.account.store), "read", lambda *_: pytest.fail("read again"))
    state.refresh()


def test_packs_are_in_the_same_order_everywhere(tracker: Tracker) -> None:
    tracker.embed(texts_of(35))
    assert len(tracker.state.packs()) == 4
    assert tracker.state.packs() == seen(tracker).packs()
    assert tracker.state.packs() == [key for key in tracker.keys("packs/") if key.endswith(".parquet")]


def test_references_are_read_back(tracker: Tracker) -> None:
    store = tracker.account.store
    assert read_reference(store, "batches/x") == (False, None)
    store.create("batches/x", reference("batch-1"))
    store.create("batches/y", reference(None, "because"))
    assert read_reference(store, "batches/x") == (True, "batch-1")
    assert read_reference(store, "batches/y") == (True, None)


def test_outcomes_survive_a_round_trip(tracker: Tracker) -> None:
    tracker.provider.refuses = {"text number 1"}
    tracker.plan(texts_of(7))
    (outcome,) = tracker.advance().outcomes
    assert isinstance(outcome, Outcome)
    assert list(seen(tracker).outcomes.values()) == [outcome]
    assert (outcome.texts, outcome.vectors, outcome.refused, outcome.status) == (7, 2, 5, "completed")


def test_what_a_state_sums_up_follows_the_shards(tracker: Tracker) -> None:
    first, second = tracker.planned("a", "b"), tracker.planned("c")
    state = tracker.state
    assert (state.open(), state.out(), state.spent_usd()) == ([first, second], [], 0)
    submit(tracker.account, first)
    assert (state.open(), state.out()) == ([first, second], [first])
    submit(tracker.account, second)
    tracker.advance()
    assert (state.open(), state.out()) == ([], [])
    assert (
        state.spent_usd()
        == seen(tracker).spent_usd()
        == pytest.approx(sum(outcome.cost_usd or 0.0 for outcome in state.outcomes.values()))
    )
    outcome = next(iter(state.outcomes))
    state.add_outcome(outcome, state.outcomes[outcome])  # seen again: spent once
    assert state.spent_usd() == seen(tracker).spent_usd()
    assert [shard.attempt for shard in seen(tracker).shards.values()] == [1, 1]


def test_claims_without_their_plan_stop_everything(tracker: Tracker) -> None:
    """What they stand for is paid: planned anew it would be paid again."""
    tracker.provider.hold = True
    submit(tracker.account, tracker.planned(*texts_of(3)))
    for key in tracker.keys("plans/"):
        tracker.account.store.delete(key)
    with pytest.raises(StoreError, match="plans are missing"):
        tracker.again().state.refresh()
