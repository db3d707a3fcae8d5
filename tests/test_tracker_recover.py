"""Claims, batch references and plans that were lost: the batches are found again, and nothing is paid twice."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from embedfill import ids
from embedfill.store import layout
from embedfill.store.local import LocalStore
from embedfill.tracker.doubt import Doubts
from embedfill.tracker.listing import back_to, is_empty, keep_one
from embedfill.tracker.recover import Recovery
from embedfill.tracker.state import ShardState, Status, store_time
from embedfill.tracker.submit import submit
from tests.provider_fixtures import refuse, vector
from tests.tracker_fixtures import SPACE, Tracker, dead_maker, make_older, texts_of

LOST = {
    "claims": ["claims/"],
    "references": ["batches/"],
    "both": ["claims/", "batches/"],
    "plans": ["claims/", "batches/", "plans/", "shards/"],
}


def lose(tracker: Tracker, *prefixes: str) -> None:
    for prefix in prefixes:
        for key in tracker.keys(prefix):
            tracker.account.store.delete(key)


def recover(tracker: Tracker) -> int:
    return Recovery(tracker.account).adopt_lost(tracker.state.refresh())


def out(tracker: Tracker, *texts: str) -> ShardState:
    """A shard whose batch is out, and of which the store has lost claim and reference."""
    shard = tracker.planned(*texts)
    assert submit(tracker.account, shard)
    lose(tracker, "claims/", "batches/")
    return shard


def settled_once(tracker: Tracker, texts: list[str]) -> None:
    assert sorted(tracker.provider.texts_sent()) == sorted(texts)
    assert tracker.vectors() == {ids.text_id(text): [vector(text).tolist()] for text in texts}


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize("lost", LOST)
def test_what_is_lost_is_found_and_not_paid_again(tracker: Tracker, lost: str, ended: bool) -> None:
    tracker.provider.hold = True
    texts = texts_of(25)
    dying = tracker.again(maker=dead_maker())
    dying.plan(texts)
    dying.advance(wait=False)
    tracker.provider.hold = not ended
    if ended:
        tracker.provider.finish()
    lose(tracker, *LOST[lost])
    again = tracker.again()
    again.plan(texts)
    recover(again)
    again.advance(wait=False)
    tracker.provider.hold = False
    tracker.provider.finish()
    again.advance()
    settled_once(tracker, texts)
    assert tracker.provider.count("POST", "/batches") == 3


def test_a_recovered_batch_is_claimed_as_it_was_made(tracker: Tracker) -> None:
    tracker.provider.hold = True
    shard = out(tracker, "a", "b")
    (batch,) = tracker.provider.batches.values()
    again = tracker.again()
    assert recover(again) == 1
    assert again.state.shards[shard.shard.id].status is Status.SUBMITTED
    claim = again.claim(shard)
    assert (claim.attempt, claim.file_id, claim.file_created_at) == (1, batch["input_file_id"], batch["created_at"])
    assert (claim.tokens, claim.price_usd) == (2, again.account.price_of(shard.shard))
    assert orjson.loads(again.reference(shard))["batch_id"] == batch["id"]
    assert tracker.again().state.refresh().shards[shard.shard.id].batch_id == batch["id"]


def test_a_kill_between_claim_and_reference_is_found_again(tracker: Tracker) -> None:
    class Killed(BaseException):
        pass

    def at(point: str) -> None:
        if point == "after-recovered-claim":
            raise Killed

    tracker.provider.hold = True
    shard = out(tracker, "a")
    lose(tracker, "claims/", "batches/")
    batch = next(iter(tracker.provider.batches.values()))
    batch["metadata"] |= {"embedfill_try": "7"}  # the next claim's number need not be the batch's
    with pytest.raises(Killed):
        recover(tracker.again(at=at, maker=dead_maker()))
    again = tracker.again()
    again.state.refresh()
    mine = again.state.shards[shard.shard.id]
    assert mine.status is Status.CLAIMED
    Doubts(again.account).resolve(again.state, [mine], store_time(again.account.store))
    assert mine.batch_id == batch["id"]
    assert tracker.provider.count("DELETE") == 0


def test_nothing_is_listed_where_nothing_is_about_to_be_submitted(tracker: Tracker) -> None:
    assert recover(tracker) == 0
    tracker.plan(texts_of(3))
    tracker.advance()
    tracker.provider.requests.clear()
    assert recover(tracker) == 0
    assert tracker.provider.requests == []


def test_one_walk_a_run_however_many_shards(tracker: Tracker) -> None:
    tracker.plan(texts_of(95))
    tracker.state.refresh()
    recovery = Recovery(tracker.account)
    assert recovery.adopt_lost(tracker.state) == recovery.adopt_lost(tracker.state) == 0
    assert tracker.provider.count("GET", "/batches") == 1


@pytest.mark.parametrize("other", ["embedfill_store", "embedfill_shard"])
def test_the_batch_of_another_is_left_alone(tracker: Tracker, other: str) -> None:
    tracker.provider.hold = True
    out(tracker, "a")
    (batch,) = tracker.provider.batches.values()
    batch["metadata"][other] = "another"
    assert recover(tracker.again()) == 0
    assert batch["status"] == "in_progress" and tracker.keys("claims/") == []


@pytest.mark.parametrize("metadata", [None, {}, {"embedfill_try": None}, {"embedfill_shard": 3}])
def test_odd_metadata_is_passed_over(tracker: Tracker, metadata: dict[str, Any] | None) -> None:
    out(tracker, "a")
    tracker.provider.add_batch("foreign", metadata=metadata)
    assert recover(tracker.again()) == 1


def test_a_shard_that_another_claims_meanwhile_is_theirs(tracker: Tracker) -> None:
    tracker.provider.hold = True
    stale = tracker.again()
    tracker.planned("a")
    stale.state.refresh()
    tracker.advance(wait=False)
    assert Recovery(stale.account).adopt_lost(stale.state) == 0
    assert len(tracker.keys("claims/")) == 1
    assert [batch["status"] for batch in tracker.provider.batches.values()] == ["in_progress"]


def test_a_late_batch_of_a_void_claim_is_not_paid_beside_another(tracker: Tracker) -> None:
    """A sleeper's POST came through after its claim was given up, and it died before it could cancel."""
    tracker.provider.hold = True
    shard = tracker.planned("a")
    submit(tracker.account, shard)
    lose(tracker, "batches/")
    tracker.account.store.create(layout.batch(SPACE, shard.shard.id, 1), b'{"batch_id":null,"reason":""}')
    again = tracker.again()
    assert recover(again) == 1
    assert again.state.shards[shard.shard.id].attempt == 2
    tracker.provider.finish()
    again.advance()
    settled_once(tracker, ["a"])


STATUSES = {
    "failed": {"status": "failed"},
    "running": {"status": "in_progress"},
    "cancelling": {"status": "cancelling"},
    "complete": {"status": "completed", "output_file_id": "output"},
    "refused": {"status": "completed", "error_file_id": "error"},
    "partial": {"status": "expired", "output_file_id": "output"},
    "nothing": {"status": "cancelled", "output_file_id": ""},
}


@pytest.mark.parametrize(
    ("older", "newer", "kept", "cancelled"),
    [
        ("failed", "running", "newer", 0),
        ("running", "failed", "older", 0),
        ("running", "running", "older", 1),
        ("complete", "running", "older", 1),
        ("running", "complete", "newer", 1),
        ("complete", "complete", "older", 0),
        ("partial", "running", "newer", 0),
        ("partial", "complete", "newer", 0),
        ("nothing", "partial", "newer", 0),
        ("refused", "running", "newer", 0),
        ("cancelling", "running", "newer", 1),
    ],
)
def test_which_of_several_tries_is_kept(tracker: Tracker, older: str, newer: str, kept: str, cancelled: int) -> None:
    shard = tracker.planned("a")
    made = {
        name: tracker.provider.add_batch(
            f"file-{number}", metadata=tracker.account.metadata(shard.shard.id, number), **STATUSES[status]
        )
        for number, (name, status) in enumerate([("older", older), ("newer", newer)], 1)
    }
    assert recover(tracker) == 1
    assert shard.batch_id == made[kept]["id"]
    assert tracker.provider.count("POST", "/batches/.*/cancel") == cancelled


@pytest.mark.parametrize("status", ["failed", "nothing"])
def test_a_batch_that_brought_nothing_does_not_stand_in_the_way(tracker: Tracker, status: str) -> None:
    shard = tracker.planned("a")
    tracker.provider.add_batch("file", metadata=tracker.account.metadata(shard.shard.id, 1), **STATUSES[status])
    assert recover(tracker) == 0 and shard.status is Status.PLANNED
    tracker.advance()
    settled_once(tracker, ["a"])


@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_provider_without_a_listing_is_used_without_it(tracker: Tracker, status: int) -> None:
    tracker.plan(["a"])
    tracker.provider.script("GET", "/batches", *[refuse(status)] * 9)
    assert recover(tracker) == 0


@pytest.mark.parametrize(("days", "pages"), [(0, 1), (20, 4), (40, 5)])
def test_the_listing_is_read_back_as_far_as_the_store_is_old_and_a_month_at_most(
    tracker: Tracker, days: int, pages: int
) -> None:
    """One batch of others an hour; two days more than the store's age are read, since no clock is trusted."""
    store, now = tracker.account.store, tracker.provider.now()
    store.create(layout.STORE, b"{}")
    make_older(store, layout.STORE, days * 86_400)
    for hour in range(24 * 50, -1, -1):
        tracker.provider.add_batch("foreign", created_at=now - hour * 3600)
    tracker.plan(["a"])
    recover(tracker)
    expected = {0: 1, 20: 6, 40: 8}[days]
    assert tracker.provider.count("GET", "/batches") == expected, pages


@pytest.mark.parametrize("clock_s", [-10_000_000, 10_000_000])
def test_no_clock_but_the_providers_says_what_is_old(tracker: Tracker, clock_s: int) -> None:
    tracker.account.store.create(layout.STORE, b"{}")
    tracker.provider.clock_s = clock_s
    out(tracker, "a")
    for _ in range(30):
        tracker.provider.add_batch("foreign")
    assert recover(tracker.again()) == 1


def test_two_stores_on_one_account_never_touch_each_others_batches(tracker: Tracker, tmp_path: Path) -> None:
    """The same texts in the same space: even the shard ids are equal. Everything is lost, in both."""
    tracker.provider.hold = True
    store = LocalStore(tmp_path / "other-store")
    other = replace(tracker.again(), account=replace(tracker.account, store=store, store_id="store-2"))
    other = other.again()
    texts = texts_of(12)
    for one in (tracker, other):
        one.plan(texts)
        one.advance(wait=False)
        lose(one, "claims/", "batches/")
    assert set(tracker.state.shards) == set(other.state.shards)
    made = {batch["id"]: batch["metadata"]["embedfill_store"] for batch in tracker.provider.batches.values()}
    again = [tracker.again(), other.again()]
    assert [recover(one) for one in again] == [2, 2]
    for one, name in zip(again, ["store-1", "store-2"], strict=True):
        assert {made[str(shard.batch_id)] for shard in one.state.open()} == {name}
    tracker.provider.finish()
    for one in again:
        one.advance()
        assert one.vectors() == {ids.text_id(text): [vector(text).tolist()] for text in texts}
    assert tracker.provider.count("POST", "/batches") == 4


def batch_at(made_at: int, **values: Any) -> Any:
    from embedfill.batchapi.models import Batch

    return Batch(id=f"batch-{made_at}", input_file_id="file", created_at=made_at, **{"status": "in_progress", **values})


def test_a_listing_that_is_not_sorted_to_the_second_is_read_on() -> None:
    times = [50, 49, 9, 40, *[8] * 25, 30]
    assert [batch.created_at for batch in back_to(map(batch_at, times), 10)] == [50, 49, 9, 40, *[8] * 20]


def test_of_batches_made_in_one_second_the_last_listed_is_the_oldest() -> None:
    first, second = batch_at(1), batch_at(1).model_copy(update={"id": "older"})
    assert keep_one([first, second]) == (second, [first])


@pytest.mark.parametrize(
    ("status", "empty"), [("failed", True), ("nothing", True), ("refused", False), ("partial", False)]
)
def test_what_is_known_to_have_brought_nothing(status: str, empty: bool) -> None:
    assert is_empty(batch_at(1, **STATUSES[status])) is empty
