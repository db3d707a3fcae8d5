"""What goes out and in which order; two trackers that want the same dollar, the same quota, the same shard."""

import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from embedfill.batchapi.limits import OPENAI
from embedfill.errors import BillingError
from embedfill.loader.settle import Settler
from embedfill.providers.client import BatchClient
from embedfill.providers.profiles import Patience
from embedfill.store.base import Entry
from embedfill.store.cache import Cache
from embedfill.store.memory import MemoryStore
from embedfill.tracker.advance import Advance, Advanced
from embedfill.tracker.dispatch import Dispatch
from embedfill.tracker.maker import this_maker
from embedfill.tracker.quota import Quota
from embedfill.tracker.retire import retire
from embedfill.tracker.shards import Packing
from embedfill.tracker.state import State, Status
from embedfill.tracker.submit import Account
from tests.fate_fixtures import DIMENSIONS, Fate
from tests.provider_fixtures import InProcess, Provider, refuse
from tests.tracker_fixtures import PRICE, REQUEST, SPACE, Tracker, price_of, texts_of
from tests.virtual_fixtures import VirtualClock

PATIENCE = Patience(poll_s=30.0, poll_max_s=300.0, listing_delay_s=60.0, claim_ttl_s=900.0)
SEEDS = 40


def dispatch(tracker: Tracker) -> Dispatch:
    tracker.state.refresh()
    return Dispatch(tracker.account, tracker.state, tracker.quota)


def sizes(tracker: Tracker) -> list[int]:
    """Texts of the batches, in the order they were made."""
    shards = tracker.state.shards
    names = [batch["metadata"]["embedfill_shard"] for batch in tracker.provider.batches.values()]
    return [shards[name].shard.texts for name in names]


def plan_sizes(tracker: Tracker, *texts: int) -> None:
    start = 0
    for count in texts:
        tracker.plan(texts_of(count, start), max_inputs=100, shard_tokens=None)
        start += count


def test_the_oldest_that_fits_goes_first_and_smaller_ones_may_pass(tracker: Tracker) -> None:
    tracker.provider.hold = True
    tracker.quota = Quota(10, None)
    plan_sizes(tracker, 6, 7, 3, 2, 1)
    dispatch(tracker).round()
    assert sizes(tracker) == [6, 3, 1]


def test_a_large_one_is_not_passed_for_ever(tracker: Tracker) -> None:
    """A steady flow of small ones keeps the quota full; yet four fit only when nothing else is out."""
    tracker.quota = Quota(5, None)
    tracker.provider.hold = True
    plan_sizes(tracker, 2, 4, *[1] * 30)
    sender = dispatch(tracker)
    for _ in range(30):
        sender.round()
        if 4 in sizes(tracker):
            break
        oldest = next(name for name, batch in tracker.provider.batches.items() if batch["status"] == "in_progress")
        tracker.provider.finish(oldest)
        Advance(tracker.account, tracker.state, settler(tracker), Quota(0, None)).run(wait=False)
    before = sizes(tracker).index(4)
    assert 16 <= before <= 20  # four times its size may go first


def settler(tracker: Tracker) -> Settler:
    return Settler(tracker.account.store, tracker.account.cache, SPACE, DIMENSIONS, PRICE)


def test_a_batch_that_brings_less_leaves_money_for_the_next(tracker: Tracker) -> None:
    """The budget is for three shards. The second expires with nothing done: a fourth fits."""
    tracker.quota = Quota(None, 0.030)
    tracker.plan(texts_of(50))
    tracker.provider.endings = ["completed", "expired"]
    tracker.provider.absent = set(texts_of(10, start=10))
    done = tracker.advance()
    assert isinstance(done.parked, BillingError)
    assert tracker.again().state.refresh().spent_usd() <= 0.030
    assert (done.submitted, len(tracker.vectors())) == (4, 30)


@pytest.mark.parametrize("code", ["insufficient_quota", "billing_hard_limit_reached"])
def test_a_billing_limit_of_a_batch_parks_the_run(tracker: Tracker, code: str) -> None:
    """It was accepted, and failed its validation: what is out is still collected, and nothing more is sent."""
    tracker.quota = Quota(20, None)
    tracker.provider.endings = ["completed", code]
    tracker.plan(texts_of(50), shard_tokens=None)
    done = tracker.advance()
    assert done.parked is not None and code in done.parked.message
    assert (done.submitted, len(done.outcomes), len(tracker.vectors())) == (2, 2, 10)
    assert len(tracker.provider.batches) == 2


def test_a_limit_that_is_told_at_once_teaches_too(tracker: Tracker) -> None:
    tracker.provider.hold = True
    tracker.plan(texts_of(30))
    tracker.provider.script("POST", "/batches", *[Provider.handle] * 2, refuse(429, "token_limit_exceeded"))
    sender = dispatch(tracker)
    sender.round()
    assert (tracker.quota.limit, sender.submitted) == (20, 2)
    sender.round()
    assert tracker.provider.count("POST", "/batches") == 3 and not tracker.quota.waiting()


def test_a_claim_of_another_may_be_given_up_so_its_money_is_waited_for(tracker: Tracker) -> None:
    """The second sees the first about to post: it gives way, and does not give up."""
    tracker.quota = Quota(None, 0.01)
    tracker.plan(texts_of(20))
    second = dispatch(tracker.again())
    tracker.account.at = lambda point: second.round() if point == "after-claim" else None
    first = dispatch(tracker)
    first.round()
    assert (first.submitted, second.submitted, len(tracker.provider.batches)) == (1, 0, 1)
    assert second.parked is None and second.quota.held_until > 0
    assert len(tracker.keys("claims/")) == 2 and len(tracker.provider.files) == 2  # its upload is deleted again


def test_what_another_has_retired_is_not_posted(tracker: Tracker) -> None:
    """Its retirement stands when our claim does; the claim that closed the shard was taken for abandoned."""
    tracker.plan(texts_of(10))
    other = tracker.again()
    other.state.refresh()

    def at(point: str) -> None:
        if point == "before-claim":
            retire(other.account, other.state, other.state.open())

    tracker.account.at = at
    sender = dispatch(tracker)
    sender.round()
    assert sender.submitted == 0 and tracker.provider.batches == {}
    assert tracker.state.refresh().open() == []
    assert [shard.texts for shard in tracker.plan(texts_of(10))] == [10]


class Turns:
    """Lets one thread at a time go on, from one turn to the next; whose turn it is follows from a seed."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.waiting: dict[int, threading.Event] = {}
        self.changed = threading.Condition()
        self.running = 0

    def turn(self) -> None:
        if not isinstance(threading.current_thread(), _Stepped):
            return
        go = threading.Event()
        with self.changed:
            self.waiting[threading.get_ident()] = go
            self.running -= 1
            self.changed.notify()
        assert go.wait(60)

    def run(self, *calls: Callable[[], None]) -> None:
        threads = [_Stepped(self, call) for call in calls]
        self.running = len(threads)
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            with self.changed:
                assert self.changed.wait_for(lambda: not self.running, 60)
                if not self.waiting:
                    break
                name = self.chance.choice(sorted(self.waiting, key=[thread.ident for thread in threads].index))
                self.running += 1
                self.waiting.pop(name).set()
        for thread in threads:
            thread.join(60)
            if thread.error:
                raise thread.error


class _Stepped(threading.Thread):
    def __init__(self, turns: Turns, call: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self.turns, self.call = turns, call
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.turns.turn()
            self.call()
        except BaseException as error:  # noqa: BLE001 - raised again where the test waits
            self.error = error
        finally:
            with self.turns.changed:
                self.turns.running -= 1
                self.turns.changed.notify()


class SteppedStore(MemoryStore):
    """Every look and every write is a turn."""

    def __init__(self, now: Callable[[], float], turns: Turns) -> None:
        super().__init__(now)
        self.turns = turns

    def create(self, key: str, data: bytes) -> bool:
        self.turns.turn()
        return super().create(key, data)

    def list(self, prefix: str, start_after: str = "") -> Iterator[Entry]:
        self.turns.turn()
        return iter(list(super().list(prefix, start_after)))


@dataclass
class Pair:
    """Two trackers on one store and one account, one step at a time."""

    folder: Path
    seed: int
    quota: Callable[[VirtualClock], Quota]
    virtual: VirtualClock = field(default_factory=VirtualClock)
    most: int = 0

    def __post_init__(self) -> None:
        random.seed(self.seed)
        self.turns = Turns(self.seed)
        self.provider = Provider(self.virtual.time)
        chance = random.Random(self.seed)
        self.provider.fate_of = lambda _batch, _lines: Fate(takes_s=chance.choice([0.0, 100.0, 1000.0]))
        self.store = SteppedStore(self.virtual.time, self.turns)
        self.trackers = [self.tracker(number) for number in range(2)]
        self.done: list[Advanced] = []

    def tracker(self, number: int) -> Tracker:
        client = BatchClient("http://127.0.0.1:9/v1", transport=InProcess(self.provider), clock=self.virtual.clock)
        cache = Cache(self.folder / f"cache-{number}", self.store)
        account = Account(
            store=self.store, cache=cache, client=client, space=SPACE, store_id="store-1", line=REQUEST.line,
            price_of=price_of, patience=PATIENCE, maker=this_maker(), clock=self.virtual.clock,
            at=lambda _point: self.turns.turn(),
        )  # fmt: skip
        packing = Packing(OPENAI, DIMENSIONS, "base64", 5, 5, None)
        return Tracker(account, State(self.store, cache, SPACE), packing, self.quota(self.virtual), self.provider)

    def run(self, texts: int) -> None:
        self.trackers[0].plan(texts_of(texts), shard_tokens=None)
        self.turns.run(*(lambda one=one: self.done.append(one.advance()) for one in self.trackers))


@pytest.mark.parametrize("seed", range(SEEDS))
def test_two_trackers_never_spend_more_than_the_budget_nor_less_than_they_could(tmp_path: Path, seed: int) -> None:
    """Six shards of $0.005; the budget is for four of them."""
    pair = Pair(tmp_path, seed, lambda virtual: Quota(None, 0.0225, clock=virtual.clock))
    pair.run(30)
    assert pair.provider.books.batches == 4 and set(pair.provider.books.runs.values()) == {1}
    assert sum(pair.provider.books.runs.values()) == 20
    assert [done.parked is not None for done in pair.done] == [True, True]
    assert sum(done.submitted for done in pair.done) == 4


@pytest.mark.parametrize("seed", range(SEEDS))
def test_two_trackers_keep_to_one_quota(tmp_path: Path, seed: int) -> None:
    """The provider refuses what is over it, and never has to."""
    pair = Pair(tmp_path, seed, lambda virtual: Quota(12, None, clock=virtual.clock))
    pair.provider.max_enqueued_tokens = 12
    pair.run(30)
    assert pair.provider.books.batches == 6 and set(pair.provider.books.runs.values()) == {1}
    assert len(pair.trackers[0].vectors()) == 30
    assert {shard.status for shard in pair.trackers[1].again().state.refresh().shards.values()} == {Status.SETTLED}
