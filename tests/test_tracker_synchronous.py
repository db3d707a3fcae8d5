"""A small remainder through the synchronous endpoint: settled like a batch, paid once but for what a kill loses."""

from dataclasses import replace
from typing import Any

import orjson
import pytest

from embedfill import ids
from embedfill.batchapi.dialect import Dialect
from embedfill.batchapi.lines import EmbeddingsRequest
from embedfill.errors import BillingError, RefusedError, UnreachableError
from embedfill.loader.settle import Settler
from embedfill.records import Outcome
from embedfill.store import layout
from embedfill.tracker.maker import in_hand
from embedfill.tracker.plan import refused
from embedfill.tracker.state import State, Status, reference
from embedfill.tracker.synchronous import SyncTail
from tests.provider_fixtures import DIMENSIONS, drop, refuse, say, vector
from tests.tracker_fixtures import SPACE, Tracker, dead_maker, texts_of

PRICE = 2000.0  # USD per million tokens: twice the batch price


def tail_of(tracker: Tracker, **options: Any) -> SyncTail:
    settler = Settler(tracker.account.store, tracker.account.cache, SPACE, DIMENSIONS, 1000.0)
    return SyncTail(tracker.account, settler, PRICE, **options)


def finish(tracker: Tracker, limit: int = 100, **options: Any) -> list[Outcome]:
    return tail_of(tracker, **options).finish(tracker.state, limit)


def asked(tracker: Tracker) -> list[list[str]]:
    """The texts of each synchronous request."""
    return [orjson.loads(one.body)["input"] for one in tracker.provider.asked("POST", "/embeddings")]


def same(tracker: Tracker, texts: list[str]) -> bool:
    found = tracker.vectors()
    return found == {ids.text_id(text): [vector(text).tolist()] for text in texts}


def test_a_remainder_is_settled_without_a_batch(tracker: Tracker) -> None:
    texts = texts_of(13)
    first, second = tracker.plan(texts)
    outcomes = finish(tracker)
    assert [(one.shard, one.attempt, one.status, one.batch_id) for one in outcomes] == [
        (first.id, 1, "synchronous", None), (second.id, 1, "synchronous", None),
    ]  # fmt: skip
    tokens = sum(tracker.provider.tokens_of(text) for text in texts)
    assert sum(one.prompt_tokens for one in outcomes) == tokens
    assert sum(one.cost_usd or 0 for one in outcomes) == pytest.approx(tokens * PRICE / 1e6)
    assert same(tracker, texts) and asked(tracker) == [texts[:5], texts[5:10], texts[10:]]
    assert (tracker.provider.count("POST", "/batches"), tracker.provider.count("POST", "/files")) == (0, 0)
    assert tracker.plan(texts) == [] and tracker.state.open() == []
    assert finish(tracker) == []


def test_what_it_wrote_is_what_another_run_reads(tracker: Tracker) -> None:
    tracker.plan(texts_of(3))
    (outcome,) = finish(tracker)
    other = tracker.again()
    assert other.plan(texts_of(3)) == []
    assert list(other.state.outcomes.values()) == [outcome]
    assert other.state.spent_usd() == outcome.cost_usd
    assert in_hand == set()
    assert [path for path in (tracker.account.cache.root / "scratch").rglob("*") if path.is_file()] == []


def test_a_claim_without_a_file_marks_it(tracker: Tracker) -> None:
    shard = tracker.planned(*texts_of(3))
    finish(tracker)
    claim = tracker.claim(shard)
    assert (claim.file_id, claim.price_usd, claim.maker) == ("", 3 * PRICE / 1e6, tracker.account.maker)


def test_more_than_a_small_remainder_is_left_to_batches(tracker: Tracker) -> None:
    tracker.plan(texts_of(13))
    assert finish(tracker, limit=12) == []
    assert (tracker.keys("claims/"), asked(tracker)) == ([], [])
    assert len(finish(tracker, limit=13)) == 2


def test_what_is_out_is_not_asked_for(tracker: Tracker) -> None:
    tracker.provider.hold = True
    tracker.plan(texts_of(5))
    tracker.advance(wait=False)
    (shard,) = tracker.plan(texts_of(8))
    assert [one.shard for one in finish(tracker)] == [shard.id]
    assert asked(tracker) == [texts_of(3, start=5)]


def test_a_bad_text_is_narrowed_down_and_rejected(tracker: Tracker) -> None:
    texts, bad = texts_of(12), "text number 3"
    tracker.provider.refuses = {bad}
    rounds = 0
    while tracker.plan(texts, max_attempts=2):
        finish(tracker)
        rounds += 1
    assert rounds == 2
    assert same(tracker, [text for text in texts if text != bad])
    (rejection,) = refused(tracker.state.refusals(), 2).rejected.values()
    assert (rejection.text_id, rejection.message) == (ids.text_id(bad).hex(), "this text is refused")


@pytest.mark.parametrize(
    "odd", [say(b"<html>", 200), say(b'{"data": []}', 200), say(b'{"data": null, "usage": {}}', 200)]
)
def test_an_answer_that_makes_no_sense_is_no_vector(tracker: Tracker, odd: Any) -> None:
    texts = texts_of(10)
    tracker.plan(texts)
    tracker.provider.script("POST", "/embeddings", odd)
    (outcome,) = finish(tracker)
    assert (outcome.vectors, len(outcome.anomalies.keys() - {"usage_missing"})) == (5, 1)
    tracker.plan(texts)
    finish(tracker)
    assert same(tracker, texts)


def test_a_busy_provider_is_asked_again(tracker: Tracker) -> None:
    tracker.plan(texts_of(5))
    tracker.provider.script("POST", "/embeddings", refuse(429, retry_after="0"), refuse(429, retry_after="0"))
    assert finish(tracker)[0].vectors == 5
    assert len(asked(tracker)) == 3


@pytest.mark.parametrize(
    ("script", "error"),
    [(drop, UnreachableError), (refuse(401), RefusedError), (refuse(404), RefusedError), (refuse(502), RefusedError),
     (refuse(429, "insufficient_quota"), BillingError)],
)  # fmt: skip
@pytest.mark.parametrize("after", [0, 1])
def test_what_has_come_is_kept_whatever_ends_the_asking(
    tracker: Tracker, script: Any, error: type[Exception], after: int
) -> None:
    """And an answer that was lost is not asked for again: it may have been paid."""
    texts = texts_of(15)
    tracker.plan(texts, max_inputs=15)
    tracker.provider.script("POST", "/embeddings", *[lambda p, r: p.handle(r)] * after, script)
    tail = tail_of(tracker)
    with pytest.raises(error):
        tail.finish(tracker.state, 100)
    assert len(asked(tracker)) == after + 1
    assert [one.vectors for one in tail.outcomes] == [5] * after
    tracker.state.refresh()
    assert [one.status for one in tracker.state.open()] == ([] if after else [Status.PLANNED])
    assert sum(shard.texts for shard in tracker.plan(texts)) == (10 if after else 0)
    finish(tracker)
    assert same(tracker, texts)
    assert sorted(text for request in asked(tracker)[after + 1 :] for text in request) == sorted(texts[5 * after :])


def test_interrupted_it_keeps_what_has_come(tracker: Tracker) -> None:
    def stop(point: str) -> None:
        if point == "after-answer":
            raise KeyboardInterrupt

    texts = texts_of(10)
    tracker.plan(texts)
    tail = tail_of(tracker)
    tail.account = replace(tracker.account, at=stop)
    with pytest.raises(KeyboardInterrupt):
        tail.finish(tracker.state, 100)
    assert len(tracker.vectors()) == 5
    tracker.plan(texts)
    finish(tracker)
    assert same(tracker, texts)


def test_the_budget_is_kept_at_the_synchronous_price(tracker: Tracker) -> None:
    """Each text counts one token in the plan: a shard of ten costs 0.02, in a batch 0.01."""
    tracker.plan(texts_of(20))
    tail = tail_of(tracker, budget_usd=0.019)
    with pytest.raises(BillingError, match="budget"):
        tail.finish(tracker.state, 100)
    assert (tail.outcomes, asked(tracker)) == ([], [])
    tracker.state.refresh()
    assert [one.status for one in tracker.state.open()] == [Status.PLANNED] * 2
    spent = sum(one.cost_usd or 0 for one in finish(tracker, budget_usd=100.0))
    assert tracker.state.spent_usd() == pytest.approx(spent)


def test_what_is_in_flight_counts_against_the_budget(tracker: Tracker) -> None:
    tracker.provider.hold = True
    tracker.plan(texts_of(10))
    tracker.advance(wait=False)
    tracker.plan(texts_of(20))
    with pytest.raises(BillingError):
        finish(tracker, budget_usd=0.029)
    assert len(finish(tracker, budget_usd=0.031)) == 1


def test_another_tracker_was_first(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    """It claims just before us: nothing is asked for."""
    tracker.plan(texts_of(5))
    other, create, raced = tracker.again(), tracker.account.store.create, []
    tracker.state.refresh()

    def race(key: str, data: bytes) -> bool:
        if key.startswith("claims/") and not raced:
            raced.append(key)
            tail_of(other).finish(other.state, 100)
        return create(key, data)

    monkeypatch.setattr(tracker.account.store, "create", race)
    assert finish(tracker) == []
    assert asked(tracker) == [texts_of(5)]
    assert len(tracker.keys("outcomes/")) == 1


def test_who_was_taken_for_dead_does_not_settle(tracker: Tracker) -> None:
    """The shard may be out in a batch of another's by now: two outcomes would hide that batch."""
    shard = tracker.planned(*texts_of(10))

    def sleep(point: str) -> None:
        if point == "after-answer":
            tracker.account.store.create(layout.batch(SPACE, shard.shard.id, 1), reference(None, "no sign of life"))

    tail = tail_of(tracker)
    tail.account = replace(tracker.account, at=sleep)
    tracker.state = State(tracker.account.store, tracker.account.cache, SPACE)
    assert tail.finish(tracker.state, 100) == []
    assert tracker.keys("outcomes/") == []
    assert tracker.state.refresh().open()[0].status is Status.PLANNED


def test_it_leaves_before_anybody_can_take_it_for_dead(tracker: Tracker) -> None:
    texts = texts_of(10)
    tracker.plan(texts)
    account = replace(tracker.account, patience=replace(tracker.account.patience, claim_ttl_s=0.0))
    tail = replace(tail_of(tracker), account=account)
    assert tail.finish(tracker.state, 100) == []
    assert (asked(tracker), tracker.keys("outcomes/")) == ([], [])
    tracker.state.refresh()
    assert [one.status for one in tracker.state.open()] == [Status.PLANNED]
    assert len(finish(tracker)) == 1


def test_a_provider_that_takes_the_model_once_a_batch_is_told_it_with_each_request(tracker: Tracker) -> None:
    dialect = Dialect(model_in="batch", dimensions="output_dimension", encoding=None)
    request = EmbeddingsRequest("tiny", "base64", DIMENSIONS, dialect)
    tracker.account = replace(tracker.account, line=request.line, options=request.batch_options)
    tracker.plan(texts_of(2))
    finish(tracker)
    (sent,) = tracker.provider.asked("POST", "/embeddings")
    assert orjson.loads(sent.body) == {"model": "tiny", "output_dimension": DIMENSIONS, "input": texts_of(2)}


@pytest.mark.parametrize("point", ["after-claim", "after-answer"])
def test_killed_it_costs_its_own_shard_once_more_and_nothing_else(tracker: Tracker, point: str) -> None:
    """A process that dies settles nothing: here its claim is a dead maker's, and its outcome is never written."""
    texts = texts_of(20)
    tracker.plan(texts)

    class Killed(BaseException):
        pass

    def kill(at: str) -> None:
        if at in (point, "before-outcome"):
            raise Killed

    tail = tail_of(tracker)
    tail.account = replace(tracker.account, at=kill, maker=dead_maker())
    with pytest.raises(Killed):
        tail.finish(tracker.state, 100)
    assert tracker.keys("outcomes/") == []
    other = tracker.again()
    other.state.refresh()
    other.advance()
    assert same(other, texts) and other.plan(texts) == []
    paid = [text for request in asked(tracker) for text in request] + tracker.provider.texts_sent()
    assert len(paid) - len(texts) == (0 if point == "after-claim" else 5)
