"""Claims without a batch reference: whose are looked into, what is found, and when a claim is given up."""

import threading
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from embedfill import ids
from embedfill.clock import Clock
from embedfill.errors import RefusedError, StoreError
from embedfill.records import Claim, Maker
from embedfill.store import layout
from embedfill.store.base import Store
from embedfill.store.local import LocalStore
from embedfill.tracker.doubt import Doubts
from embedfill.tracker.maker import in_hand
from embedfill.tracker.state import ShardState, Status, store_time
from embedfill.tracker.submit import submit
from tests.provider_fixtures import Provider, Reply, Request, Script, accept_and_drop, drop, refuse, vector
from tests.test_tracker_submit import UNCLEAR
from tests.tracker_fixtures import PATIENCE, SPACE, Tracker, dead_maker, foreign_maker, make_older, texts_of


def settled_once(tracker: Tracker, texts: list[str]) -> None:
    """Every text has its vector, and was sent in just one batch that ran."""
    assert sorted(tracker.provider.texts_sent()) == sorted(texts)
    assert tracker.vectors() == {ids.text_id(text): [vector(text).tolist()] for text in texts}


def in_doubt(tracker: Tracker, *texts: str, answer: Script = accept_and_drop) -> ShardState:
    """A shard whose claim is open, as another run sees it."""
    shard = tracker.planned(*texts)
    tracker.provider.script("POST", "/batches", answer)
    submit(tracker.account, shard)
    return shard


def alone(tracker: Tracker, shard: ShardState) -> ShardState:
    return tracker.state.refresh().shards[shard.shard.id]


@pytest.mark.parametrize("answer", UNCLEAR)
def test_every_doubt_ends_with_one_batch(tracker: Tracker, answer: str) -> None:
    texts = texts_of(7)
    tracker.provider.script("POST", "/batches", UNCLEAR[answer])
    tracker.plan(texts)
    tracker.advance()
    settled_once(tracker, texts)
    assert tracker.provider.count("POST", "/batches") == (1 if "accepted" in answer or "408" in answer else 2)
    assert len(tracker.provider.batches) == 1


@pytest.mark.parametrize("answers", [[drop, accept_and_drop], [drop, drop, drop], [accept_and_drop] * 3])
def test_doubt_after_doubt(tracker: Tracker, answers: list[Script]) -> None:
    texts = texts_of(25)
    tracker.provider.script("POST", "/batches", *answers)
    tracker.plan(texts)
    tracker.advance()
    settled_once(tracker, texts)
    assert len(tracker.provider.batches) == 3


def test_found_by_its_metadata(tracker: Tracker) -> None:
    """The provider calls the input file by another name than at its upload."""
    shard = in_doubt(tracker, "a")
    (batch,) = tracker.provider.batches.values()
    batch["input_file_id"] = "another-name"
    tracker.advance()
    assert orjson.loads(tracker.reference(shard))["batch_id"] == batch["id"]
    settled_once(tracker, ["a"])


def test_found_by_its_input_file(tracker: Tracker) -> None:
    """The provider keeps no metadata."""
    shard = in_doubt(tracker, "a")
    (batch,) = tracker.provider.batches.values()
    batch["metadata"] = None
    tracker.advance()
    assert orjson.loads(tracker.reference(shard))["batch_id"] == batch["id"]
    settled_once(tracker, ["a"])


@pytest.mark.parametrize("other", ["store", "try", "shard"])
def test_the_batch_of_another_is_not_adopted(tracker: Tracker, other: str) -> None:
    shard = in_doubt(tracker, "a", answer=drop)
    metadata = tracker.account.metadata(shard.shard.id, 1)
    metadata[f"embedfill_{other}"] = "another"
    foreign = tracker.provider.add_batch("file-of-another", metadata=metadata, status="completed")
    tracker.advance()
    settled_once(tracker, ["a"])
    assert foreign["status"] == "completed"
    assert foreign["id"] not in {tracker.reference(shard, 1), tracker.reference(shard, 2)}


def test_of_two_the_older_is_kept_and_the_other_cancelled(tracker: Tracker) -> None:
    tracker.provider.hold = True
    shard = in_doubt(tracker, "a")
    (older,) = tracker.provider.batches.values()
    newer = tracker.provider.add_batch(older["input_file_id"], metadata=older["metadata"])
    tracker.advance(wait=False)
    assert orjson.loads(tracker.reference(shard))["batch_id"] == older["id"]
    assert [older["status"], newer["status"]] == ["in_progress", "cancelled"]


def test_a_batch_on_a_later_page_is_found(tracker: Tracker) -> None:
    shard = in_doubt(tracker, "a")
    (batch,) = tracker.provider.batches.values()
    for number in range(250):
        tracker.provider.add_batch(f"foreign-{number}")
    tracker.advance(wait=False)
    assert orjson.loads(tracker.reference(shard))["batch_id"] == batch["id"]
    assert tracker.provider.count("GET", "/batches") == 3


def test_a_listing_is_read_no_further_back_than_the_upload(tracker: Tracker) -> None:
    for number in range(450):
        tracker.provider.add_batch(f"old-{number}", created_at=tracker.provider.now() - 3 * 3600)
    shard = in_doubt(tracker, "a")
    tracker.advance(wait=False)
    assert alone(tracker, shard).status is Status.SETTLED
    assert tracker.provider.count("GET", "/batches") == 1


@pytest.mark.parametrize("clock_s", [-100_000, 100_000])
def test_only_the_providers_clock_is_asked_when_a_batch_was_made(tracker: Tracker, clock_s: int) -> None:
    tracker.provider.clock_s = clock_s
    in_doubt(tracker, "a")
    tracker.advance()
    settled_once(tracker, ["a"])
    assert tracker.provider.count("POST", "/batches") == 1


def test_a_listing_that_is_late_is_waited_for(tracker: Tracker) -> None:
    tracker.account.patience = replace(PATIENCE, listing_delay_s=5.0)
    tracker.provider.late_lists = 6
    in_doubt(tracker, "a")
    tracker.advance()
    settled_once(tracker, ["a"])
    assert tracker.provider.count("POST", "/batches") == 1
    assert tracker.provider.count("GET", "/batches") > 6 and tracker.provider.count("DELETE") == 0


def test_time_that_passes_while_a_look_is_answered_does_not_count(tracker: Tracker) -> None:
    """The machine slept between the question and the answer: the listing may have had no time at all."""
    seconds = [0.0]

    def answer_late(provider: Provider, request: Request) -> Reply:
        seconds[0] += 100.0
        return provider.handle(request)

    tracker.account.patience = replace(PATIENCE, listing_delay_s=5.0)
    tracker.account.clock = Clock(lambda: seconds[0], lambda _seconds: None)
    tracker.provider.late_lists = 2
    in_doubt(tracker, "a")
    advance = tracker.advancing()
    advance.run(wait=False)
    tracker.provider.script("GET", "/batches", answer_late)
    advance.run(wait=False)
    assert tracker.provider.count("DELETE") == 0
    advance.run(wait=False)
    settled_once(tracker, ["a"])


def test_what_is_not_found_is_fenced_then_void_then_sent_again(tracker: Tracker) -> None:
    shard = in_doubt(tracker, "a", answer=drop)
    claim = tracker.claim(shard)
    tracker.advance()
    asked = [f"{one.method} {one.path}" for one in tracker.provider.requests]
    gone = asked.index(f"DELETE /files/{claim.file_id}")
    assert asked[gone - 1] == asked[gone + 1] == "GET /batches"
    assert asked[gone + 2 : gone + 4] == ["POST /files", "POST /batches"]
    assert orjson.loads(tracker.reference(shard, 1))["batch_id"] is None
    assert orjson.loads(tracker.reference(shard, 2))["batch_id"] is not None
    settled_once(tracker, ["a"])


def test_a_batch_that_shows_at_the_last_look_is_adopted(tracker: Tracker) -> None:
    """It turns up in the listing just when its file is deleted."""
    tracker.provider.late_lists = 10**6
    shard = in_doubt(tracker, "a")

    def show(provider: Provider, request: Request) -> Reply:
        provider._unlisted = dict.fromkeys(provider.batches, 0)
        return provider.handle(request)

    tracker.provider.script("DELETE", "/files/.*", show)
    tracker.advance()
    assert tracker.provider.count("POST", "/batches") == 1
    assert orjson.loads(tracker.reference(shard))["batch_id"] in tracker.provider.batches
    settled_once(tracker, ["a"])


def test_a_file_that_is_gone_already_is_as_good_as_deleted(tracker: Tracker) -> None:
    in_doubt(tracker, "a", answer=drop)
    tracker.provider.files.clear()
    tracker.advance()
    settled_once(tracker, ["a"])


MAKERS = {"dead": (dead_maker, True), "foreign": (foreign_maker, False)}


@pytest.mark.parametrize("maker", MAKERS)
def test_a_claim_of_another_is_touched_only_where_its_maker_is_known_to_be_dead(tracker: Tracker, maker: str) -> None:
    make, dead = MAKERS[maker]
    shard = in_doubt(tracker.again(maker=make()), "a")
    tracker.advance(wait=False)
    assert (tracker.provider.count("GET", "/batches") > 0) is dead
    assert alone(tracker, shard).status is (Status.SETTLED if dead else Status.CLAIMED)


def living_maker(tracker: Tracker) -> Maker:
    """A process of this machine that is not this one: the first of all."""
    from embedfill.tracker.maker import _start_ticks

    return replace(tracker.account.maker, pid=1, ticks=_start_ticks(1))


def test_a_living_makers_claim_is_left_to_it(tracker: Tracker) -> None:
    shard = in_doubt(tracker.again(maker=living_maker(tracker)), "a", answer=drop)
    tracker.advance(wait=False)
    assert alone(tracker, shard).status is Status.CLAIMED
    assert tracker.provider.count("GET") == tracker.provider.count("DELETE") == 0


@pytest.mark.parametrize(("age_s", "doubtful"), [(0.0, False), (50.0, False), (70.0, True)])
@pytest.mark.parametrize("maker", ["foreign", "living"])
def test_an_old_claim_is_looked_into_whoever_made_it(
    tracker: Tracker, maker: str, age_s: float, doubtful: bool
) -> None:
    """By the store's clock: `claim_ttl_s` is 60 here."""
    made = living_maker(tracker) if maker == "living" else foreign_maker()
    shard = in_doubt(tracker.again(maker=made), "a")
    make_older(tracker.account.store, layout.claim(SPACE, shard.shard.id, 1), age_s)
    tracker.advance(wait=False)
    assert alone(tracker, shard).status is (Status.SETTLED if doubtful else Status.CLAIMED)
    assert tracker.provider.count("POST", "/batches") == 1


def test_a_run_that_does_not_wait_gives_an_old_claim_up_at_its_first_look(tracker: Tracker) -> None:
    """Such runs come by once an hour, say, and each looks once; only after the fence it waits for the listing."""
    slept: list[float] = []
    tracker.account.patience, tracker.account.clock = replace(PATIENCE, listing_delay_s=5.0), Clock(sleep=slept.append)
    shard = in_doubt(tracker.again(maker=foreign_maker()), "a", answer=drop)
    for age_s, status in [(62.0, Status.CLAIMED), (4.0, Status.SUBMITTED)]:
        make_older(tracker.account.store, layout.claim(SPACE, shard.shard.id, 1), age_s)
        tracker.again().advance(wait=False)
        assert alone(tracker, shard).status is status
    assert alone(tracker, shard).attempt == 2 and slept == [5.0]


def test_a_claim_of_an_earlier_run_of_this_process_is_looked_into(tracker: Tracker) -> None:
    """A library's user may run again after an error, in the same process: its maker is alive, but past posting."""
    in_doubt(tracker, "a")
    tracker.again().advance()
    settled_once(tracker, ["a"])


def test_a_claim_in_hand_in_this_process_is_left_alone(tracker: Tracker) -> None:
    """Two runs in two threads of one process: one has just claimed and is about to post."""
    tracker.planned("a")
    posting, go_on = threading.Event(), threading.Event()

    def at(point: str) -> None:
        if point == "before-post":
            posting.set()
            go_on.wait(10)

    slow = tracker.again(at=at)
    thread = threading.Thread(target=slow.advance)
    thread.start()
    posting.wait(10)
    looked = tracker.provider.count("GET", "/batches")
    other = tracker.again(patience=replace(PATIENCE, listing_delay_s=0.0))
    for _ in range(3):
        other.advance(wait=False)
    assert tracker.provider.count("DELETE") == tracker.provider.count("GET", "/batches") - looked == 0
    go_on.set()
    thread.join()
    assert not in_hand
    settled_once(tracker, ["a"])


def test_a_killed_runs_batch_is_adopted_by_the_next(tracker: Tracker) -> None:
    class Killed(BaseException):
        pass

    def at(point: str) -> None:
        if point == "before-reference":
            raise Killed

    dying = tracker.again(at=at, maker=dead_maker())
    dying.plan(texts_of(12))
    with pytest.raises(Killed):
        dying.advance()
    tracker.advance()
    settled_once(tracker, texts_of(12))
    assert tracker.provider.count("POST", "/batches") == 2


def test_two_that_look_at_once_agree(tracker: Tracker) -> None:
    tracker.provider.hold = True
    shard = in_doubt(tracker.again(maker=dead_maker()), "a")
    one, other = tracker.again(), tracker.again()
    one.advance(wait=False)
    other.advance(wait=False)
    (batch,) = tracker.provider.batches.values()
    assert batch["status"] == "in_progress"
    assert orjson.loads(tracker.reference(shard))["batch_id"] == batch["id"]


def test_two_that_give_up_at_once_send_one_batch(tracker: Tracker) -> None:
    in_doubt(tracker.again(maker=dead_maker()), "a", answer=drop)
    others = [tracker.again(), tracker.again()]
    threads = [threading.Thread(target=other.advance) for other in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    settled_once(tracker, ["a"])
    assert len(tracker.provider.batches) == 1


@pytest.mark.parametrize(
    ("older", "newer", "kept", "cancelled"),
    [
        ({"status": "failed"}, {}, "newer", 0),
        ({}, {"status": "failed"}, "older", 0),
        ({"status": "completed", "output_file_id": "output"}, {}, "older", 1),
        ({"status": "cancelled"}, {}, "newer", 0),
        ({"status": "expired", "output_file_id": "output"}, {}, "newer", 0),
    ],
)
def test_a_batch_that_failed_does_not_hide_one_that_runs(
    tracker: Tracker, older: dict[str, Any], newer: dict[str, Any], kept: str, cancelled: int
) -> None:
    shard = in_doubt(tracker, "a", answer=drop)
    claim, metadata = tracker.claim(shard), tracker.account.metadata(shard.shard.id, 1)
    made = {
        name: tracker.provider.add_batch(claim.file_id, metadata=metadata, **values)
        for name, values in (("older", older), ("newer", newer))
    }
    resolve(tracker, shard)
    assert orjson.loads(tracker.reference(shard))["batch_id"] == made[kept]["id"]
    assert tracker.provider.count("POST", "/batches/.*/cancel") == cancelled


def resolve(tracker: Tracker, shard: ShardState) -> ShardState:
    """One look at what is in doubt, as another run takes it."""
    again = tracker.again()
    mine = again.state.refresh().shards[shard.shard.id]
    Doubts(again.account).resolve(again.state, [mine], store_time(again.account.store))
    return mine


@pytest.mark.parametrize(("maker", "void"), [("dead", True), ("foreign", False)])
def test_a_claim_of_the_synchronous_endpoint_is_void_once_it_is_in_doubt(
    tracker: Tracker, maker: str, void: bool
) -> None:
    """It names no file: nothing of it can be found, and nothing is asked."""
    shard = tracker.planned("a")
    made = Claim(shard.shard.id, 1, "", 0, 1, 0.1, MAKERS[maker][0](), "nonce")
    key = layout.claim(SPACE, shard.shard.id, 1)
    tracker.account.store.create(key, ids.canonical(asdict(made)))
    foreign = tracker.provider.add_batch("", metadata=None)
    assert resolve(tracker, shard).status is (Status.PLANNED if void else Status.CLAIMED)
    make_older(tracker.account.store, key, 70.0)
    assert alone(tracker.again(), shard).void is void
    assert resolve(tracker, shard).status is Status.PLANNED
    assert tracker.provider.requests == [] and foreign["status"] == "in_progress"


@pytest.mark.parametrize(("status", "stops"), [(405, False), (501, False), (403, True)])
def test_a_provider_that_cannot_delete_files_leaves_no_fence(tracker: Tracker, status: int, stops: bool) -> None:
    in_doubt(tracker, "a", answer=drop)
    tracker.provider.script("DELETE", "/files/.*", refuse(status))
    if stops:
        with pytest.raises(RefusedError):
            tracker.advance()
        assert tracker.keys("batches/") == []
    else:
        tracker.advance()
        settled_once(tracker, ["a"])


def sleeps_through(tracker: Tracker, honest: bool) -> None:
    """A tracker sleeps right before its POST; another one takes its claim for abandoned, and finishes. It wakes up, at
    a provider that keeps to it that a deleted file is gone, or not."""
    tracker.planned("a")
    other = tracker.again(maker=foreign_maker(), patience=replace(PATIENCE, listing_delay_s=0.0))

    def at(point: str) -> None:
        if point != "before-post" or other.keys("outcomes/"):
            return
        (claim,) = other.keys("claims/")
        make_older(other.account.store, claim, 7000.0)
        files, awake = dict(tracker.provider.files), set(in_hand)
        in_hand.clear()  # the other is a process of its own
        other.advance()
        in_hand.update(awake)
        tracker.provider.files |= {} if honest else files

    tracker.again(at=at).advance()


def test_a_sleeper_that_wakes_before_its_post_pays_nothing(tracker: Tracker) -> None:
    """Its file is gone, so its batch fails; and it finds its claim void."""
    sleeps_through(tracker, honest=True)
    assert tracker.provider.books.runs == {"a": 1} and tracker.provider.books.batches == 2
    assert tracker.vectors() == {ids.text_id("a"): [vector("a").tolist()]}


def test_a_sleeper_at_a_provider_that_runs_deleted_files_cancels_what_it_started(tracker: Tracker) -> None:
    """What remains possible, and its bound: the one batch of the one claim, and it is cancelled at once."""
    sleeps_through(tracker, honest=False)
    assert tracker.provider.books.runs["a"] <= 2 and tracker.provider.books.batches == 2
    assert tracker.provider.count("POST", "/batches/.*/cancel") == 1
    assert tracker.vectors() == {ids.text_id("a"): [vector("a").tolist()]}


class Lossy:
    """A store whose answers to `create` of one kind are lost, after it wrote, the first time."""

    def __init__(self, store: Store, kind: str) -> None:
        self._store, self._kind, self.lost = store, kind, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def create(self, key: str, data: bytes) -> bool:
        made = self._store.create(key, data)
        if layout.kind_of(key) == self._kind and not self.lost:
            self.lost += 1
            raise StoreError("no answer")
        return made


@pytest.mark.parametrize("kind", ["plans", "claims", "batches", "outcomes"])
def test_a_store_that_loses_an_answer_costs_nothing(tracker: Tracker, kind: str) -> None:
    lossy = Lossy(tracker.account.store, kind)
    store: Any = lossy
    dying = replace(tracker, account=replace(tracker.account, store=store)).again(maker=dead_maker())
    with suppress(StoreError):
        dying.embed(texts_of(12))
    assert lossy.lost == 1
    tracker.again().embed(texts_of(12))
    settled_once(tracker, texts_of(12))
    assert tracker.provider.books.batches == 2


def test_all_doubts_of_two_stores_on_one_account(tracker: Tracker, tmp_path: Path) -> None:
    """Every answer to a POST is lost, twice; the texts, the space and so the shards are the same."""
    store = LocalStore(tmp_path / "other-store")
    other = replace(tracker, account=replace(tracker.account, store=store, store_id="store-2")).again()
    for one in (tracker, other):
        one.plan(texts_of(12))
    tracker.provider.script("POST", "/batches", *[accept_and_drop, drop] * 4)
    threads = [threading.Thread(target=one.advance) for one in (tracker, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tracker.provider.books.runs == dict.fromkeys(texts_of(12), 2)
    assert tracker.vectors() == other.vectors() and len(other.vectors()) == 12
    assert tracker.provider.count("POST", "/batches/.*/cancel") == 0


@pytest.mark.parametrize("status", [409, 425, 429])
def test_an_answer_that_is_not_in_the_apis_form_is_no_refusal(tracker: Tracker, status: int) -> None:
    """A gateway's page: the batch behind it may have been made."""

    def accept_and_excuse(provider: Provider, request: Request) -> Reply:
        provider.handle(request)
        return Reply(status, b"<html>busy</html>", {"Content-Type": "text/html"})

    tracker.provider.script("POST", "/batches", accept_and_excuse)
    tracker.embed(texts_of(7))
    assert tracker.provider.books.overpaid(texts_of(7)) == {}
    assert tracker.provider.count("POST", "/batches") == 1


def test_a_batch_is_found_though_the_providers_clock_was_set_back(tracker: Tracker) -> None:
    tracker.provider.script("POST", "/batches", drop_from_another_hour)
    tracker.embed(texts_of(3))
    assert tracker.provider.count("POST", "/batches") == 1


def drop_from_another_hour(provider: Provider, request: Request) -> None:
    provider.clock_s = -5 * 3600
    provider.handle(request)
    provider.clock_s = 0
