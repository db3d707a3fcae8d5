"""What may go out: the enqueued-token limit, the budget, and what outcomes teach."""

from typing import Any

import pytest

from embedfill.clock import Clock
from embedfill.errors import BillingError, ProviderError
from embedfill.records import Outcome, Shard
from embedfill.tracker import quota as quota_module
from embedfill.tracker.quota import Quota
from embedfill.tracker.submit import submit
from tests.tracker_fixtures import Tracker, price_of, texts_of


def shard(tokens: int) -> Shard:
    return Shard("id", "key", 1, tokens, tokens, 100)


def outcome(**values: Any) -> Outcome:
    defaults: dict[str, Any] = {
        "shard": "s", "attempt": 1, "batch_id": "batch-1", "status": "completed", "texts": 5, "vectors": 0,
        "refused": 0, "prompt_tokens": 0, "cost_usd": None, "packs": (),
    }  # fmt: skip
    return Outcome(**{**defaults, **values})


LIMITED = outcome(status="failed", errors=("token_limit_exceeded: enqueued",))
FAILED = outcome(status="failed", errors=("model_not_found: no such model",))


@pytest.mark.parametrize(("limit", "tokens"), [(None, None), (20_000_000, 5_000_000), (7, 1), (1, 1)])
def test_a_shard_is_at_most_a_quarter_of_the_quota(limit: int | None, tokens: int | None) -> None:
    assert Quota(limit, None).shard_tokens == tokens


@pytest.mark.parametrize(
    ("limit", "tokens", "admitted"), [(None, 10**9, True), (10, 6, True), (10, 7, False), (4, 1, False), (3, 1, False)]
)
def test_what_is_out_and_what_goes_out_stay_within_the_limit(
    tracker: Tracker, limit: int | None, tokens: int, admitted: bool
) -> None:
    tracker.provider.hold = True
    submit(tracker.account, tracker.planned(*texts_of(4)))
    assert Quota(limit, None).admits(tracker.state, shard(tokens)) is admitted


def test_a_shard_over_the_limit_goes_out_alone(tracker: Tracker) -> None:
    """The provider is the judge of it: it would wait for ever."""
    assert Quota(10, None).admits(tracker.state, shard(11))


def test_the_limit_is_kept_over_a_whole_run(tracker: Tracker) -> None:
    tracker.provider.hold = True
    tracker.quota = Quota(12, None)
    tracker.plan(texts_of(40), max_inputs=3)
    advance = tracker.advancing()
    most = []
    while True:
        advance.run(wait=False)
        most.append(sum(batch["status"] == "in_progress" for batch in tracker.provider.batches.values()))
        if not most[-1]:
            break
        tracker.provider.finish()
    assert max(most) == 4 and len(tracker.vectors()) == 40


@pytest.mark.parametrize(("budget", "fits"), [(None, True), (0.008, True), (0.007, False), (0.0, False)])
def test_the_budget_counts_what_is_spent_and_what_is_out(tracker: Tracker, budget: float | None, fits: bool) -> None:
    """Three tokens spent, three in flight, two to go: $0.001 each."""
    tracker.embed(texts_of(3))
    tracker.provider.hold = True
    submit(tracker.account, tracker.planned(*texts_of(3, start=3)))
    quota = Quota(None, budget)
    if fits:
        quota.check_budget(tracker.state, shard(2), price_of)
        return
    with pytest.raises(BillingError, match="budget_usd") as raised:
        quota.check_budget(tracker.state, shard(2), price_of)
    assert "$0.003 spent, $0.003 in flight" in raised.value.message and raised.value.exit_code == 5


@pytest.mark.parametrize("price", [0.0, None])
def test_what_costs_nothing_needs_no_budget(tracker: Tracker, price: float | None) -> None:
    Quota(None, 0.0).check_budget(tracker.state, shard(10**9), lambda _: price)


def test_an_enqueued_limit_is_waited_out_longer_each_time(tracker: Tracker) -> None:
    now = [1000.0]
    quota = Quota(None, None, clock=Clock(lambda: now[0]))
    for wait in (30, 60, 120, 240, 480, 600, 600):
        quota.learn(LIMITED)
        assert not quota.admits(tracker.state, shard(1))
        now[0] += wait - 1
        assert quota.waiting()
        now[0] += 1
        assert not quota.waiting() and quota.admits(tracker.state, shard(1))
    assert quota.fruitless == 0  # the limit is not the provider's failure
    quota.learn(LIMITED)
    quota.learn(outcome(vectors=3))
    assert not quota.waiting()
    quota.learn(LIMITED)
    now[0] += 30
    assert not quota.waiting()


def test_batch_after_batch_without_a_vector_ends_the_run() -> None:
    quota = Quota(None, None)
    quota.learn(FAILED)
    quota.learn(outcome(status="lost"))
    with pytest.raises(ProviderError, match=r"3 batches in a row .* batch-1: model_not_found: no such model"):
        quota.learn(FAILED)


@pytest.mark.parametrize("good", [{"vectors": 1}, {"refused": 5}])
def test_a_batch_that_brought_something_begins_the_count_anew(good: dict[str, int]) -> None:
    quota = Quota(None, None)
    for _ in range(3):
        quota.learn(FAILED)
        quota.learn(FAILED)
        quota.learn(outcome(**good))


def test_a_pause_only_grows() -> None:
    quota = Quota(None, None, clock=Clock(lambda: 100.0))
    quota.pause(5.0)
    quota.pause(1.0)
    assert quota.held_until == 105.0
    quota.pause(0.0)
    assert quota.waiting()


def test_the_hold_is_long_enough_for_counters_that_release_late() -> None:
    assert 10 <= quota_module._HOLD_S <= quota_module._HOLD_MAX_S <= 3600
