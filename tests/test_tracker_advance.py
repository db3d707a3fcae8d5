"""The loop: submit, look, poll and collect until all is settled, whatever the provider does meanwhile."""

import random
import threading
import time
from dataclasses import replace

import pytest

from embedfill import ids
from embedfill.errors import BillingError, ProviderError, RefusedError, UnreachableError
from embedfill.tracker import quota as quota_module
from embedfill.tracker.plan import refused
from embedfill.tracker.quota import Quota
from embedfill.tracker.state import Status
from tests.provider_fixtures import (
    Provider,
    Reply,
    Request,
    Script,
    accept_and_drop,
    accept_and_refuse,
    cut,
    drop,
    refuse,
    reset,
    say,
    vector,
)
from tests.tracker_fixtures import PATIENCE, Tracker, texts_of

CONTENT = "/files/.*/content"


def right(provider: Provider, request: Request) -> Reply:
    return provider.handle(request)


def finish(provider: Provider, request: Request) -> Reply:
    """All batches end just now."""
    provider.finish()
    return provider.handle(request)


def statuses(tracker: Tracker) -> list[Status]:
    return [shard.status for shard in tracker.again().state.refresh().shards.values()]


def complete(tracker: Tracker, texts: list[str]) -> None:
    """Every text has just its vector, and was paid once."""
    assert tracker.vectors() == {ids.text_id(text): [vector(text).tolist()] for text in texts}
    assert sorted(tracker.provider.texts_sent()) == sorted(texts)


def test_all_that_is_planned_is_carried_to_its_outcomes(tracker: Tracker) -> None:
    texts = texts_of(35)
    tracker.plan(texts)
    done = tracker.advance()
    assert (done.submitted, len(done.outcomes), done.parked) == (4, 4, None)
    assert sum(outcome.vectors for outcome in done.outcomes) == sum(outcome.prompt_tokens for outcome in done.outcomes)
    assert sum(outcome.cost_usd or 0.0 for outcome in done.outcomes) == pytest.approx(0.035)
    complete(tracker, texts)
    assert [tracker.provider.count("POST", path) for path in ("/files", "/batches")] == [4, 4]


def test_with_nothing_to_do_nothing_is_asked(tracker: Tracker) -> None:
    assert tracker.advance().outcomes == []
    tracker.embed(texts_of(3))
    before = len(tracker.provider.requests)
    assert tracker.again().advance().outcomes == []
    assert len(tracker.provider.requests) == before


def test_without_waiting_each_run_does_one_round(tracker: Tracker) -> None:
    tracker.provider.hold = True
    tracker.plan(texts_of(20))
    first = tracker.again().advance(wait=False)
    assert (first.submitted, first.outcomes) == (2, [])
    second = tracker.again().advance(wait=False)
    assert (second.submitted, second.outcomes) == (0, [])
    tracker.provider.finish()
    third = tracker.again().advance(wait=False)
    assert (third.submitted, len(third.outcomes)) == (0, 2)
    complete(tracker, texts_of(20))


def test_a_batch_that_takes_its_time_is_waited_for(tracker: Tracker) -> None:
    tracker.provider.hold = True
    tracker.plan(texts_of(5))
    tracker.provider.script("GET", "/batches/.*", right, right, finish)
    assert len(tracker.advance().outcomes) == 1
    assert tracker.provider.count("GET", "/batches/.*") == 3


def test_progress_is_told_in_texts(tracker: Tracker) -> None:
    tracker.provider.hold = True
    tracker.plan(texts_of(20))
    advance, told = tracker.advancing(), list[int]()
    advance.run(wait=False)
    for batch, counts in zip(tracker.provider.batches.values(), [(2, 1, 1), (0, 0, 0)], strict=True):
        batch["request_counts"] = dict(zip(("total", "completed", "failed"), counts, strict=True))
    advance.run(wait=False, progress=told.append)
    tracker.provider.finish(next(iter(tracker.provider.batches)))
    advance.run(wait=False, progress=told.append)
    advance.run(wait=False, progress=told.append)
    assert told == [10, 10, 10]


def test_two_runs_of_one_plan_send_every_text_once(tracker: Tracker) -> None:
    texts = texts_of(60)
    tracker.plan(texts)
    others = [tracker.again() for _ in range(3)]
    threads = [threading.Thread(target=other.advance) for other in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    complete(tracker, texts)
    assert len(tracker.provider.batches) == 6


PASSING: dict[str, Script] = {
    "429": refuse(429, "rate_limit_exceeded"),
    "new file": refuse(400, None, "Cannot find file file-1"),
    "new file, 404": refuse(404, None, "No such File object: file-1"),
}


@pytest.mark.parametrize("answer", PASSING)
def test_a_refusal_that_may_pass_is_tried_again_later(tracker: Tracker, answer: str) -> None:
    tracker.provider.script("POST", "/batches", *[PASSING[answer]] * 4)
    tracker.plan(texts_of(5))
    done = tracker.advance()
    assert (done.submitted, len(done.outcomes)) == (1, 1)
    complete(tracker, texts_of(5))
    assert tracker.provider.count("POST", "/batches") == 5


@pytest.mark.parametrize("answer", PASSING)
def test_a_refusal_that_does_not_pass_is_told(tracker: Tracker, answer: str) -> None:
    tracker.provider.script("POST", "/batches", *[PASSING[answer]] * 50)
    tracker.plan(texts_of(5))
    with pytest.raises(RefusedError):
        tracker.advance()
    assert tracker.provider.count("POST", "/batches") == 5 and tracker.provider.batches == {}
    assert statuses(tracker) == [Status.PLANNED]


def test_refusals_are_counted_in_a_row(tracker: Tracker) -> None:
    for _ in range(3):
        tracker.provider.script("POST", "/batches", *[refuse(429)] * 4, right)
    tracker.plan(texts_of(30))
    assert len(tracker.advance().outcomes) == 3


@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_refusal_that_cannot_pass_is_told_at_once(tracker: Tracker, status: int) -> None:
    tracker.provider.script("POST", "/batches", refuse(status, "some_code", "your key is wrong"))
    tracker.plan(texts_of(20))
    with pytest.raises(RefusedError, match="your key is wrong"):
        tracker.advance()
    assert tracker.provider.count("POST", "/batches") == 1


def test_a_pause_that_is_asked_for_is_kept(tracker: Tracker) -> None:
    tracker.provider.script("POST", "/batches", refuse(429, retry_after="30"))
    tracker.plan(texts_of(5))
    for _ in range(3):
        tracker.advance(wait=False)
    assert tracker.provider.count("POST", "/batches") == 1
    assert 25 < tracker.quota.held_until - time.monotonic() <= 30
    tracker.quota.held_until = 0.0
    tracker.advance()
    complete(tracker, texts_of(5))


def test_what_is_paid_is_collected_though_new_submissions_are_refused(tracker: Tracker) -> None:
    tracker.provider.hold = True
    tracker.plan(texts_of(5))
    tracker.advance(wait=False)
    tracker.provider.finish()
    tracker.plan(texts_of(10))
    tracker.provider.script("POST", "/batches", refuse(403, "no", "no more batches for you"))
    with pytest.raises(RefusedError, match="no more batches"):
        tracker.again().advance()
    assert len(tracker.vectors()) == 5


@pytest.mark.parametrize("path", ["/files", "/batches"])
def test_a_billing_limit_parks_the_run_and_what_is_out_comes_in(tracker: Tracker, path: str) -> None:
    tracker.plan(texts_of(30))
    tracker.provider.hold = True
    limit = refuse(429, "insufficient_quota", "you have run out")
    tracker.provider.script("POST", path, right, limit)
    tracker.provider.script("GET", "/batches/.*", right, right, finish)
    done = tracker.advance()
    assert isinstance(done.parked, BillingError) and "you have run out" in done.parked.message
    assert (done.submitted, len(done.outcomes)) == (1, 1)
    assert sorted(statuses(tracker), key=str) == [Status.PLANNED, Status.PLANNED, Status.SETTLED]
    assert tracker.provider.count("POST", path) == 2
    tracker.provider.hold = False
    assert tracker.again().advance().parked is None
    complete(tracker, texts_of(30))


def test_the_budget_parks_the_run(tracker: Tracker) -> None:
    tracker.quota = Quota(None, 0.025)
    tracker.plan(texts_of(40))
    done = tracker.advance()
    assert (done.submitted, len(done.outcomes)) == (2, 2)
    assert done.parked is not None and "budget_usd" in done.parked.message
    again = tracker.again().advance()
    assert (again.submitted, again.outcomes) == (0, [])
    raised = tracker.again()
    raised.quota = Quota(None, 1.0)
    raised.advance()
    complete(tracker, texts_of(40))


def test_an_enqueued_token_limit_is_waited_out_and_costs_no_try(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quota_module, "_HOLD_S", 0.02)
    monkeypatch.setattr(quota_module, "_HOLD_MAX_S", 0.04)
    tracker.provider.endings = ["token_limit_exceeded"] * 3
    tracker.embed(texts_of(5), max_attempts=1)
    complete(tracker, texts_of(5))
    assert refused(tracker.state.refusals(), 1).rejected == {}
    failed = [outcome.texts for outcome in tracker.state.outcomes.values() if outcome.status == "failed"]
    assert sorted(failed) == [1, 1, 5]  # smaller ones are tried when a shard was refused though it was alone


def test_while_the_limit_is_waited_out_nothing_is_sent(tracker: Tracker) -> None:
    tracker.provider.endings = ["token_limit_exceeded"]
    tracker.plan(texts_of(5))
    tracker.advance()
    tracker.plan(texts_of(5))
    for _ in range(3):
        tracker.advance(wait=False)
    assert tracker.provider.count("POST", "/batches") == 1
    assert tracker.quota.waiting() and tracker.state.open()[0].status is Status.PLANNED


def test_batches_that_bring_nothing_end_the_run_with_the_providers_words(tracker: Tracker) -> None:
    tracker.provider.endings = ["model_not_found"] * 50
    with pytest.raises(ProviderError, match=r"3 batches in a row .* model_not_found"):
        tracker.embed(texts_of(5))
    assert len(tracker.provider.batches) == 3
    tracker.provider.endings = []
    other = tracker.again()
    other.embed(texts_of(5))
    complete(tracker, texts_of(5))


@pytest.mark.parametrize("ending", ["expired", "cancelled", "model_not_found"])
def test_what_a_batch_did_not_bring_goes_out_again(tracker: Tracker, ending: str) -> None:
    texts = texts_of(20)
    tracker.provider.endings = [ending]
    tracker.provider.absent = {texts[0]}
    tracker.plan(texts)
    tracker.advance()
    tracker.provider.absent = set()
    tracker.embed(texts)
    assert {text_id: found[0] for text_id, found in tracker.vectors().items()} == {
        ids.text_id(text): vector(text).tolist() for text in texts
    }
    assert refused(tracker.state.refusals(), 1).rejected == {}


AWAY: dict[str, Script] = {"dropped": drop, "reset": reset, "502": say(b"bad gateway", 502), "garbage": say(b"hello")}


@pytest.mark.parametrize("trouble", AWAY)
def test_an_outage_is_waited_out(tracker: Tracker, trouble: str) -> None:
    """Every request of several rounds fails, all its retries too."""
    tracker.plan(texts_of(5))
    tracker.advancing().run(wait=False)
    tracker.provider.script("GET", "/batches/.*", *[AWAY[trouble]] * 6 * 5)
    assert len(tracker.advance().outcomes) == 1
    complete(tracker, texts_of(5))


def test_an_outage_that_lasts_is_told(tracker: Tracker) -> None:
    tracker.plan(texts_of(5))
    tracker.advancing().run(wait=False)
    tracker.provider.script("GET", "/batches/.*", *[drop] * 1000)
    with pytest.raises(UnreachableError):
        tracker.advance()
    assert tracker.provider.count("GET", "/batches/.*") == 6 * 10


def test_a_run_that_does_not_wait_tells_an_outage_at_once(tracker: Tracker) -> None:
    tracker.plan(texts_of(5))
    tracker.advance(wait=False)
    tracker.provider.script("GET", "/batches/.*", *[drop] * 1000)
    with pytest.raises(UnreachableError):
        tracker.advance(wait=False)
    assert tracker.provider.count("GET", "/batches/.*") == 6


def test_a_refused_poll_is_no_outage(tracker: Tracker) -> None:
    tracker.plan(texts_of(5))
    tracker.advance(wait=False)
    tracker.provider.script("GET", "/batches/.*", refuse(401, "invalid_api_key"))
    with pytest.raises(RefusedError):
        tracker.advance()


TROUBLES: dict[tuple[str, str], list[Script]] = {
    ("POST", "/files"): [drop, accept_and_drop, accept_and_refuse(500), refuse(429), say(b"garbage")],
    ("POST", "/batches"): [
        drop, accept_and_drop, reset, refuse(500), accept_and_refuse(502), accept_and_refuse(408), refuse(429),
        say(b"garbage"), refuse(400, None, "Cannot find file"),
    ],
    ("GET", "/batches"): [drop, refuse(500), refuse(429), say(b"[]")],
    ("GET", "/batches/[^/]*"): [drop, refuse(503), say(b"null")],
    ("GET", CONTENT): [cut(10), cut(100), drop, refuse(500)],
    ("DELETE", "/files/[^/]*"): [drop, accept_and_drop, refuse(500)],
}  # fmt: skip


def disturb(provider: Provider, chance: random.Random) -> None:
    """Up to three troubles in a row on each route, in between answers that are right."""
    for (method, path), troubles in TROUBLES.items():
        for _ in range(chance.randrange(12)):
            provider.script(method, path, *chance.choices(troubles, k=chance.randrange(4)), right)
    provider.late_lists = chance.randrange(3)


@pytest.mark.parametrize("seed", range(8))
def test_whatever_happens_every_text_is_paid_once(tracker: Tracker, seed: int) -> None:
    texts = texts_of(60)
    disturb(tracker.provider, random.Random(seed))
    tracker.account.patience = replace(PATIENCE, listing_delay_s=0.15)
    tracker.embed(texts)
    complete(tracker, texts)
    posted = {batch["metadata"]["embedfill_shard"] for batch in tracker.provider.batches.values()}
    assert len(posted) == len(tracker.provider.batches) == 6


def test_the_provider_is_asked_for_lost_batches_before_the_first_submission(tracker: Tracker) -> None:
    """Claim and reference are gone, the batch is not."""
    tracker.provider.hold = True
    tracker.plan(texts_of(5))
    tracker.advance(wait=False)
    for prefix in ("claims/", "batches/"):
        for key in tracker.keys(prefix):
            tracker.account.store.delete(key)
    tracker.provider.finish()
    other = tracker.again()
    assert other.advance().submitted == 0
    complete(tracker, texts_of(5))


def test_texts_that_came_back_go_out_while_the_rest_is_waited_for(tracker: Tracker) -> None:
    """One of two batches expires with nothing done: the loop ends early, so that its texts can be planned."""
    tracker.provider.hold = True
    tracker.provider.absent = set(texts_of(10))
    tracker.plan(texts_of(20))
    tracker.advance(wait=False)
    tracker.provider.finish(next(iter(tracker.provider.batches)))
    done = tracker.advance()
    assert [(outcome.vectors, outcome.texts) for outcome in done.outcomes] == [(0, 10)]
    assert [shard.status for shard in tracker.state.open()] == [Status.SUBMITTED]
    tracker.provider.absent = set()
    assert [shard.texts for shard in tracker.plan(texts_of(20))] == [10]
    tracker.provider.hold = False
    tracker.provider.finish()
    assert tracker.advance().submitted == 1
    assert len(tracker.vectors()) == 20


def test_a_billing_limit_while_polling_is_endured(tracker: Tracker) -> None:
    tracker.provider.hold = True
    tracker.plan(texts_of(5))
    tracker.advance(wait=False)
    tracker.plan(texts_of(10))
    limit = refuse(429, "insufficient_quota", "you have run out")
    tracker.provider.script("GET", "/batches.*", limit, limit, finish)
    done = tracker.again().advance()
    assert done.parked is not None and "you have run out" in done.parked.message
    assert len(tracker.vectors()) == 5 and tracker.provider.count("POST", "/batches") == 1


def test_all_that_has_ended_is_collected_before_the_run_gives_up(tracker: Tracker) -> None:
    tracker.provider.endings = ["expired"] * 4
    tracker.provider.absent = set(texts_of(35))
    tracker.plan(texts_of(35))
    with pytest.raises(ProviderError, match="in a row brought nothing"):
        tracker.advance()
    assert len(tracker.again().state.refresh().outcomes) == 4
