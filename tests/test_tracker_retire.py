"""Shards that are too large go back to be planned anew, and nobody can take one of them out any more."""

import orjson
import pytest

from embedfill import ids
from embedfill.records import Shard
from embedfill.store import layout
from embedfill.tracker import quota as quota_module
from embedfill.tracker.maker import in_hand
from embedfill.tracker.plan import make_plan
from embedfill.tracker.quota import Quota
from embedfill.tracker.retire import retire
from embedfill.tracker.state import Status, reference
from embedfill.tracker.submit import submit
from tests.fate_fixtures import vector
from tests.tracker_fixtures import SPACE, Tracker, texts_of, wanted


def test_retired_texts_are_planned_anew_and_the_shard_is_closed(tracker: Tracker) -> None:
    shard = tracker.planned(*texts_of(4))
    late = tracker.again().state.refresh()
    assert retire(tracker.account, tracker.state, [shard]) == [shard]
    assert shard.status is Status.SETTLED and tracker.state.open() == [] and in_hand == set()
    assert tracker.claim(shard).file_id == ""
    assert orjson.loads(tracker.account.store.read(layout.plan(SPACE, 2)))["retired"] == [[shard.shard.id, 1]]
    assert submit(tracker.account, late.shards[shard.shard.id]) is False  # whoever did not see it cannot claim it
    assert tracker.provider.batches == {}
    assert [one.texts for one in tracker.plan(texts_of(4), max_inputs=2)] == [2, 2]
    tracker.advance()
    assert sorted(tracker.provider.texts_sent()) == texts_of(4)


@pytest.mark.parametrize("meanwhile", ["claimed", "submitted"])
def test_what_is_out_is_not_retired(tracker: Tracker, meanwhile: str) -> None:
    tracker.provider.hold = True
    shard = tracker.planned("a")
    stale = tracker.again()
    stale.state.refresh()
    submit(tracker.account, shard, lambda: "no" if meanwhile == "claimed" else "")
    assert retire(stale.account, stale.state, stale.state.open()) == []
    assert tracker.keys("plans/") == [layout.plan(SPACE, 1)]
    expected = Status.SUBMITTED if meanwhile == "submitted" else Status.PLANNED
    assert tracker.state.refresh().shards[shard.shard.id].status is expected


def test_another_plan_in_between_is_read_and_the_next_number_taken(tracker: Tracker) -> None:
    shard = tracker.planned("a")
    other = tracker.again()

    def at(point: str) -> None:
        if point == "after-close":
            other.plan(["a", "b"])

    tracker.account.at = at
    assert retire(tracker.account, tracker.state, [shard]) == [shard]
    assert [one.shard.texts for one in tracker.state.open()] == [1]
    assert orjson.loads(tracker.account.store.read(layout.plan(SPACE, 3)))["retired"] == [[shard.shard.id, 1]]


def test_a_shard_that_was_taken_over_while_we_slept_stays(tracker: Tracker) -> None:
    """Our claim was taken for abandoned, void, and the shard submitted under the next one."""
    shard = tracker.planned("a")
    other = tracker.again()

    def at(point: str) -> None:
        if point == "after-close":
            other.account.store.create(layout.batch(SPACE, shard.shard.id, 1), reference(None, "abandoned"))
            submit(other.account, other.state.refresh().shards[shard.shard.id])

    tracker.account.at = at
    assert retire(tracker.account, tracker.state, [shard]) == []
    assert tracker.state.refresh().shards[shard.shard.id].status is not Status.PLANNED
    assert len(tracker.provider.batches) == 1 and tracker.plan(["a"]) == []


def test_shards_over_the_providers_limit_are_cut_down_until_they_fit(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The configured limit is far from the true one, and all that was planned is larger than it."""
    monkeypatch.setattr(quota_module, "_HOLD_S", 0.001)
    tracker.provider.max_enqueued_tokens = 3
    tracker.quota = Quota(20, None)
    texts, planned = texts_of(40), list[Shard]()
    for _ in range(40):
        planned += plan(tracker, texts)
        if not tracker.state.open():
            break
        tracker.advance()
    assert tracker.vectors() == {ids.text_id(text): [vector(text).tolist()] for text in texts}
    assert set(tracker.provider.books.runs.values()) == {1}
    assert any(shard.retired for shard in tracker.state.shards.values())


def plan(tracker: Tracker, texts: list[str]) -> list[Shard]:
    packing = tracker.packing
    packing = type(packing)(
        packing.limits, packing.dimensions, packing.encoding, 20, 20, shard_tokens=tracker.quota.shard_tokens
    )
    return make_plan(tracker.state, wanted(texts), packing, 3, tracker.account.cache.scratch("shards"))
