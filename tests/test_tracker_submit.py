"""One shard to one batch: the write order, races for a claim, and what every answer to the POST leads to."""

import threading
from concurrent.futures import ThreadPoolExecutor

import orjson
import pytest

from embedfill.errors import BillingError, ProviderError, RefusedError, StoreError
from embedfill.store import layout
from embedfill.store.memory import MemoryStore
from embedfill.tracker.maker import in_hand
from embedfill.tracker.state import State, Status, reference
from embedfill.tracker.submit import submit
from tests.provider_fixtures import (
    Provider,
    Reply,
    Request,
    accept_and_drop,
    accept_and_refuse,
    drop,
    refuse,
    reset,
    say,
)
from tests.tracker_fixtures import SPACE, Tracker, texts_of

UNCLEAR = {
    "dropped": drop,
    "accepted and dropped": accept_and_drop,
    "reset": reset,
    "500": refuse(500),
    "accepted and 502": accept_and_refuse(502),
    "504 of a proxy": say(b"<html>time-out</html>", 504),
    "408 of a gateway": accept_and_refuse(408),
    "garbage": say(b"<html>welcome</html>"),
    "no batch": say(b"{}"),
}


def test_what_is_referred_to_exists_before(tracker: Tracker) -> None:
    shard = tracker.planned(*texts_of(3))
    seen: dict[str, tuple[int, int, int, int]] = {}

    def at(point: str) -> None:
        provider = tracker.provider
        sent = [provider.count("POST", path) for path in ("/files", "/batches")]
        seen[point] = (sent[0], len(tracker.keys("claims/")), sent[1], len(tracker.keys("batches/")))

    tracker.account.at = at
    assert submit(tracker.account, shard)
    at("end")
    assert list(seen.items()) == [
        ("before-upload", (0, 0, 0, 0)),
        ("before-claim", (1, 0, 0, 0)),
        ("after-claim", (1, 1, 0, 0)),
        ("before-post", (1, 1, 0, 0)),
        ("before-reference", (1, 1, 1, 0)),
        ("end", (1, 1, 1, 1)),
    ]


def test_the_batch_carries_whose_it_is_and_the_reference_names_it(tracker: Tracker) -> None:
    shard = tracker.planned("a", "b")
    submit(tracker.account, shard)
    (batch,) = tracker.provider.batches.values()
    assert batch["metadata"] == {
        "embedfill_store": "store-1", "embedfill_shard": shard.shard.id, "embedfill_try": "1",
    }  # fmt: skip
    assert orjson.loads(tracker.reference(shard)) == {"batch_id": batch["id"], "reason": ""}
    claim = tracker.claim(shard)
    assert (claim.file_id, claim.tokens, claim.price_usd) == (batch["input_file_id"], 2, 0.002)
    assert claim.file_created_at == pytest.approx(tracker.provider.now(), abs=5)
    assert tracker.provider.names[claim.file_id] == f"embedfill-store-1-{shard.shard.id}.jsonl"
    assert shard.status is Status.SUBMITTED and shard.batch_id == batch["id"]


def test_nothing_is_left_in_scratch(tracker: Tracker) -> None:
    shard = tracker.planned("a")
    folder = tracker.account.cache.scratch("batchfiles")
    tracker.provider.script("POST", "/files", refuse(400, "bad", "File is too large."))
    with pytest.raises(RefusedError, match="too large"):
        submit(tracker.account, shard)
    assert list(folder.iterdir()) == [] and tracker.keys("claims/") == []
    submit(tracker.account, shard)
    assert list(folder.iterdir()) == [] and in_hand == set()


def test_an_upload_that_fails_claims_nothing(tracker: Tracker) -> None:
    shard = tracker.planned("a")
    tracker.provider.script("POST", "/files", *[drop] * 6)
    with pytest.raises(ProviderError):
        submit(tracker.account, shard)
    assert tracker.keys("claims/") == [] and tracker.provider.count("POST", "/batches") == 0
    assert shard.status is Status.PLANNED


def test_of_many_claimants_one_posts_and_the_others_clean_up(tracker: Tracker) -> None:
    shard = tracker.planned("a")
    others = [tracker.again() for _ in range(4)]
    shards = [other.state.refresh().shards[shard.shard.id] for other in others]
    ready = threading.Barrier(len(others))
    for other in others:
        other.account.at = lambda point: ready.wait() and None if point == "before-claim" else None

    with ThreadPoolExecutor(len(others)) as pool:
        won = list(pool.map(lambda pair: submit(pair[0].account, pair[1]), zip(others, shards, strict=True)))
    assert sorted(won) == [False, False, False, True]
    assert tracker.provider.count("POST", "/files") == 4
    assert tracker.provider.count("POST", "/batches") == len(tracker.provider.batches) == 1
    (batch,) = tracker.provider.batches.values()
    inputs = [file_id for file_id in tracker.provider.files if file_id.startswith("file-")]
    assert inputs == [batch["input_file_id"]]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422, 429])
def test_a_refused_post_is_void_and_told(tracker: Tracker, status: int) -> None:
    shard = tracker.planned("a")
    tracker.provider.script("POST", "/batches", refuse(status, "some_code", "some words"))
    with pytest.raises(RefusedError, match="some words"):
        submit(tracker.account, shard)
    assert orjson.loads(tracker.reference(shard)) == {"batch_id": None, "reason": "refused: some_code: some words"}
    tracker.state.refresh()
    assert shard.status is Status.PLANNED
    assert submit(tracker.account, shard)
    assert shard.attempt == 2 and tracker.provider.count("POST", "/batches") == 2
    assert [batch["metadata"]["embedfill_try"] for batch in tracker.provider.batches.values()] == ["2"]


def test_a_billing_limit_is_void_and_told(tracker: Tracker) -> None:
    shard = tracker.planned("a")
    tracker.provider.script("POST", "/batches", refuse(429, "insufficient_quota", "no money left"))
    with pytest.raises(BillingError, match="no money left"):
        submit(tracker.account, shard)
    assert orjson.loads(tracker.reference(shard))["batch_id"] is None


@pytest.mark.parametrize("answer", UNCLEAR)
def test_an_unclear_answer_leaves_the_claim_open(tracker: Tracker, answer: str) -> None:
    shard = tracker.planned("a")
    tracker.provider.script("POST", "/batches", UNCLEAR[answer])
    assert submit(tracker.account, shard) is False
    assert tracker.keys("batches/") == [] and len(tracker.keys("claims/")) == 1
    assert shard.status is tracker.again().state.refresh().shards[shard.shard.id].status is Status.CLAIMED
    assert tracker.provider.count("POST", "/batches") == 1
    assert in_hand == set()


def test_while_a_claim_is_in_hand_it_says_so(tracker: Tracker) -> None:
    shard = tracker.planned("a")
    held: list[bool] = []
    tracker.account.at = lambda point: held.append(in_hand == {tracker.claim(shard).nonce}) if "post" in point else None
    submit(tracker.account, shard)
    assert held == [True] and in_hand == set()


def test_a_sleeper_whose_claim_was_voided_does_not_post(tracker: Tracker) -> None:
    shard = tracker.planned("a")
    key = layout.batch(SPACE, shard.shard.id, 1)

    def at(point: str) -> None:
        if point == "after-claim":
            tracker.account.store.create(key, reference(None, "taken for dead"))

    tracker.account.at = at
    assert submit(tracker.account, shard) is False
    assert tracker.provider.count("POST", "/batches") == 0
    assert tracker.state.refresh().shards[shard.shard.id].status is Status.PLANNED


def test_a_sleeper_that_posts_after_all_cancels_its_batch(tracker: Tracker) -> None:
    shard = tracker.planned("a")
    key = layout.batch(SPACE, shard.shard.id, 1)

    def slow(provider: Provider, request: Request) -> Reply:
        tracker.account.store.create(key, reference(None, "taken for dead"))
        return provider.handle(request)

    tracker.provider.hold = True
    tracker.provider.script("POST", "/batches", slow)
    assert submit(tracker.account, shard) is False
    (batch,) = tracker.provider.batches.values()
    assert batch["status"] == "cancelled"
    assert tracker.state.refresh().shards[shard.shard.id].status is Status.PLANNED


def test_a_late_post_of_a_fenced_claim_is_not_billed(tracker: Tracker) -> None:
    """The uploaded file is gone: the batch fails its validation, and is cancelled in vain."""
    shard = tracker.planned("a")
    key = layout.batch(SPACE, shard.shard.id, 1)

    def fence(point: str) -> None:
        if point == "before-post":
            tracker.account.client.delete_file(tracker.claim(shard).file_id)
            tracker.account.store.create(key, reference(None, "taken for dead"))

    tracker.account.at = fence
    assert submit(tracker.account, shard) is False
    (batch,) = tracker.provider.batches.values()
    assert batch["status"] == "failed" and tracker.provider.texts_sent() == []


def test_a_reference_that_another_wrote_for_our_batch_is_ours(tracker: Tracker) -> None:
    """Somebody looked into our claim, found its batch, and adopted it before we got to it."""
    shard = tracker.planned("a")

    def adopted(provider: Provider, request: Request) -> Reply:
        reply = provider.handle(request)
        batch_id = orjson.loads(reply.body)["id"]
        tracker.account.store.create(layout.batch(SPACE, shard.shard.id, 1), reference(batch_id, ""))
        return reply

    tracker.provider.hold = True
    tracker.provider.script("POST", "/batches", adopted)
    assert submit(tracker.account, shard)
    assert [batch["status"] for batch in tracker.provider.batches.values()] == ["in_progress"]


def test_attempts_are_counted_up(tracker: Tracker) -> None:
    shard = tracker.planned("a")
    for number in range(1, 12):
        tracker.provider.script("POST", "/batches", refuse(400))
        with pytest.raises(RefusedError):
            submit(tracker.account, shard)
        shard = tracker.again().state.refresh().shards[shard.shard.id]
        assert (shard.attempt, shard.status) == (number, Status.PLANNED)
    assert submit(tracker.account, shard)
    assert len(tracker.keys("claims/")) == 12 and shard.attempt == 12


def test_what_is_withdrawn_is_not_posted_and_leaves_no_file(tracker: Tracker) -> None:
    shard = tracker.planned("a")
    seen: list[int] = []

    def withdraw() -> str:
        seen.append(len(tracker.keys("claims/")))
        return "too dear"

    assert submit(tracker.account, shard, withdraw) is False
    assert seen == [1] and tracker.provider.count("POST", "/batches") == 0
    assert orjson.loads(tracker.reference(shard)) == {"batch_id": None, "reason": "too dear"}
    assert shard.status is Status.PLANNED and tracker.provider.files == {}
    assert submit(tracker.account, shard) and shard.attempt == 2


def test_the_file_of_a_refused_post_is_deleted(tracker: Tracker) -> None:
    shard = tracker.planned("a")
    tracker.provider.script("POST", "/batches", refuse(400))
    tracker.provider.script("DELETE", "/files/.*", refuse(403), refuse(403))
    for _ in range(3):
        with pytest.raises(RefusedError):
            submit(tracker.account, shard)
        tracker.provider.script("POST", "/batches", refuse(400))
    assert len(tracker.provider.files) == 2  # those that the provider did not let go


@pytest.mark.parametrize("answer", ["accepted and dropped", "500"])
def test_the_file_of_a_claim_in_doubt_stays(tracker: Tracker, answer: str) -> None:
    shard = tracker.planned("a")
    tracker.provider.script("POST", "/batches", UNCLEAR[answer])
    submit(tracker.account, shard)
    assert len([name for name in tracker.provider.files if name.startswith("file-")]) == 1


class LostAnswers(MemoryStore):
    """Claims are written, or not, and the answer is lost. Then it may not be reachable at all for a while."""

    def __init__(self, written: bool, readable: bool) -> None:
        super().__init__()
        self.written, self.readable = written, readable
        self.troubled = True

    def create(self, key: str, data: bytes) -> bool:
        if not (self.troubled and key.startswith("claims/")):
            return super().create(key, data)
        if self.written:
            super().create(key, data)
        raise StoreError("no answer from the bucket")

    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        if self.troubled and not self.readable and key.startswith("claims/"):
            raise StoreError("no answer from the bucket")
        return super().read(key, start, stop)


@pytest.mark.parametrize(("written", "readable"), [(True, True), (True, False), (False, True)])
def test_a_claim_whose_answer_was_lost_is_looked_at(tracker: Tracker, written: bool, readable: bool) -> None:
    store = LostAnswers(written, readable)
    tracker.account.store = tracker.account.cache.store = tracker.state.store = store
    tracker.state = State(store, tracker.account.cache, SPACE)
    shard = tracker.planned("a")
    if written and readable:
        assert submit(tracker.account, shard)
        assert tracker.claim(shard).attempt == 1
        return
    with pytest.raises(StoreError, match="no answer"):
        submit(tracker.account, shard)
    assert tracker.provider.count("POST", "/batches") == 0 and in_hand == set()
    store.troubled = False
    tracker.state.refresh()
    assert shard.status is (Status.CLAIMED if written else Status.PLANNED)
    tracker.advance()
    assert len(tracker.provider.batches) == 1 and len(tracker.vectors()) == 1
