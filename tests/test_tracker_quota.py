"""What fits under the enqueued-token limit, what refusals teach, and how the limit grows again."""

import itertools
from typing import Any

import pytest

from embedfill.clock import Clock
from embedfill.config import BatchConfig
from embedfill.errors import ConfigError, ProviderError
from embedfill.providers.profiles import PROFILES
from embedfill.records import Outcome, Shard
from embedfill.tracker import quota as quota_module
from embedfill.tracker.quota import Quota, over_the_limit, quota_of
from embedfill.tracker.state import ShardState
from embedfill.tracker.submit import submit
from embedfill.tracker.sums import Amount, Sums, sums_of
from tests.tracker_fixtures import Tracker, price_of, texts_of

_numbers = itertools.count()


class Time:
    """Seconds that a test lets pass."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.clock = Clock(lambda: self.now)


def shard(tokens: int, name: str = "id", requests: int = 1) -> Shard:
    return Shard(name, "key", requests, tokens, tokens, 100)


def out(tokens: int, requests: int = 1) -> Sums:
    return Sums(posted=Amount(tokens, requests if tokens else 0))


def outcome(**values: Any) -> Outcome:
    defaults: dict[str, Any] = {
        "shard": "s", "attempt": 1, "batch_id": "batch-1", "status": "completed", "texts": 5, "vectors": 0,
        "refused": 0, "prompt_tokens": 0, "cost_usd": None, "packs": (),
    }  # fmt: skip
    return Outcome(**{**defaults, **values})


FAILED = outcome(status="failed", errors=("model_not_found: no such model",))


def send(quota: Quota, *tokens: int) -> list[ShardState]:
    """Shards of these sizes go out, one after the other."""
    sent = [ShardState(shard(size, f"shard-{next(_numbers)}"), 1, batch_id="b") for size in tokens]
    for one in sent:
        quota.sent(one)
    return sent


def end(quota: Quota, ended: ShardState, *others: ShardState) -> None:
    """One batch has ended, these are still out."""
    ended.settled = True
    quota.see(others)


@pytest.mark.parametrize(("limit", "tokens"), [(None, None), (20_000_000, 5_000_000), (7, 1), (1, 1)])
def test_a_shard_is_at_most_a_quarter_of_the_quota(limit: int | None, tokens: int | None) -> None:
    assert Quota(limit, None).shard_tokens == tokens


@pytest.mark.parametrize(
    ("limit", "tokens", "fits"), [(None, 10**9, True), (10, 6, True), (10, 7, False), (4, 1, False), (3, 1, False)]
)
def test_what_is_out_and_what_goes_out_stay_within_the_limit(
    tracker: Tracker, limit: int | None, tokens: int, fits: bool
) -> None:
    tracker.provider.hold = True
    submit(tracker.account, tracker.planned(*texts_of(4)))
    assert Quota(limit, None).fits(sums_of(tracker.state, price_of), shard(tokens)) is fits


@pytest.mark.parametrize(("requests", "fits"), [(6, True), (7, False)])
def test_requests_are_limited_too(requests: int, fits: bool) -> None:
    assert Quota(None, None, 10).fits(out(10**9, 4), shard(1, requests=requests)) is fits


def test_a_shard_over_the_limits_goes_out_alone() -> None:
    """The provider is the judge of it: it would wait for ever."""
    assert Quota(10, None, 10).fits(out(0), shard(11, requests=11))


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


def test_what_is_out_counts_after_a_restart(tracker: Tracker) -> None:
    tracker.provider.hold = True
    tracker.quota = Quota(12, None)
    tracker.plan(texts_of(40), max_inputs=3)
    tracker.advance(wait=False)
    other = tracker.again()
    assert other.advance(wait=False).submitted == 0
    tracker.provider.finish(next(iter(tracker.provider.batches)))
    assert other.advance(wait=False).submitted == 1


def test_a_refusal_shrinks_the_limit_to_what_is_known_to_fit() -> None:
    time = Time()
    quota = Quota(None, None, clock=time.clock)
    *others, last = send(quota, 30, 30, 30)
    time.now += 10
    quota.see(others)
    quota.refused(last.shard, out(60))
    assert quota.limit == 60 and quota.shard_tokens == 15
    assert not quota.fits(out(60), shard(1)) and quota.fits(out(30), shard(30))


def test_shards_that_are_refused_at_once_teach_one_lesson() -> None:
    """All of a burst has ended when the first of them is looked at."""
    time = Time()
    quota = Quota(None, None, clock=time.clock)
    burst = send(quota, 30, 30, 30)
    time.now += 10
    quota.see([])
    for one in burst:
        quota.refused(one.shard, out(0))
    assert (quota.limit, quota.alone) == (30, 0) and not quota.waiting()


def test_the_limit_grows_by_a_shard_at_a_time_up_to_the_configured_one() -> None:
    time = Time()
    quota = Quota(100, None, clock=time.clock)
    *_others, last = send(quota, 30, 30, 30)
    quota.refused(last.shard, out(60))
    assert quota.limit == 60
    grown = []
    for _ in range(4):
        assert not quota.fits(out(quota.limit or 0), shard(30))
        time.now += quota_module._GROW_S
        quota.fits(out(quota.limit or 0), shard(30))
        grown.append(quota.limit)
    assert grown == [90, 100, 100, 100]
    assert quota.wait_s() == float("inf")


def test_a_step_up_that_was_refused_is_tried_less_and_less() -> None:
    time = Time()
    quota = Quota(None, None, clock=time.clock)
    *_, last = send(quota, 30, 30, 30)
    quota.refused(last.shard, out(60))
    for wait in (1, 2, 4, 8):
        time.now += quota_module._GROW_S * wait - 1
        assert not quota.fits(out(60), shard(30))
        time.now += 1
        assert quota.fits(out(60), shard(30))
        (probe,) = send(quota, 30)
        time.now += 1
        quota.refused(probe.shard, out(60))
        assert quota.limit == 60


def test_a_late_release_explains_a_refusal_and_the_limit_stays() -> None:
    time = Time()
    quota = Quota(100, None, clock=time.clock)
    first, *others = send(quota, 25, 25, 25, 25)
    time.now += 600
    end(quota, first, *others)
    assert quota.fits(out(75), shard(25, "new"))
    (new,) = send(quota, 25)
    time.now += 20
    quota.see(others)
    quota.refused(new.shard, out(75))
    assert quota.limit == 100 and not quota.fits(out(75), shard(25))
    time.now += quota.wait_s()
    assert quota.fits(out(75), shard(25)) and quota.late.lag_s > 0


def test_the_next_release_is_waited_for_as_long_as_the_last_one_taught() -> None:
    time = Time()
    quota = Quota(100, None, clock=time.clock)
    first, second, *others = send(quota, 25, 25, 25, 25)
    time.now += 600
    end(quota, first, second, *others)
    (new,) = send(quota, 25)
    time.now += 20
    quota.refused(new.shard, out(75))
    time.now += 1000
    end(quota, second, *others)
    assert not quota.fits(out(50), shard(50)) and quota.fits(out(50), shard(25))
    time.now += quota.late.lag_s
    assert quota.fits(out(50), shard(50))


def test_batches_that_are_taken_make_the_tracker_less_patient() -> None:
    quota = Quota(100, None)
    quota.late.lag_s = 50.0
    quota.learn(outcome(vectors=5))
    assert 0.0 < quota.late.lag_s < 50.0
    quota.learn(outcome(vectors=5))
    assert quota.late.lag_s == 0.0


def test_one_release_explains_only_what_it_could_have_held() -> None:
    """Ten tokens late are no reason why 25 did not fit where 20 were free besides."""
    time = Time()
    quota = Quota(100, None, clock=time.clock)
    small, *others = send(quota, 10, 30, 25)
    time.now += 600
    end(quota, small, *others)
    (new,) = send(quota, 25)
    time.now += 20
    quota.refused(new.shard, out(55))
    assert quota.limit == 55


def test_a_shard_that_is_refused_alone_is_waited_out_longer_each_time() -> None:
    time = Time()
    quota = Quota(None, None, clock=time.clock)
    for wait in (30, 60, 120, 240, 480, 600, 600):
        (alone,) = send(quota, 8)
        quota.refused(alone.shard, out(0))
        assert quota.waiting() and quota.wait_s() == wait
        time.now += wait
        assert not quota.waiting() and quota.fits(out(0), shard(8))
    assert quota.fruitless == 0  # the limit is not the provider's failure
    quota.learn(outcome(vectors=3))
    (alone,) = send(quota, 8)
    quota.refused(alone.shard, out(0))
    assert quota.wait_s() == 30


def test_only_a_second_refusal_makes_a_shard_too_large() -> None:
    """The first may be the doing of somebody else on the account."""
    quota = Quota(100, None)
    for expected, part in ((False, 25), (True, 3)):
        (alone,) = send(quota, 25)
        quota.refused(alone.shard, out(0))
        assert (quota.too_large(shard(25)), quota.shard_tokens) == (expected, part)
    assert not quota.too_large(shard(12))


def test_a_shard_that_is_refused_for_ever_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quota_module, "_ALONE_MAX", 3)
    quota = Quota(None, None)
    for _ in range(2):
        quota.refused(send(quota, 8)[0].shard, out(0))
    with pytest.raises(ProviderError, match=r"refuses 8 tokens .* nothing else"):
        quota.refused(send(quota, 8)[0].shard, out(0))


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
    assert quota.held_until == 105.0 and quota.wait_s() == 5.0
    quota.pause(0.0)
    assert quota.waiting()


def test_the_limit_is_known_by_its_code() -> None:
    assert over_the_limit(outcome(status="failed", errors=("token_limit_exceeded: enqueued",)))
    assert not over_the_limit(FAILED)


@pytest.mark.parametrize(
    ("settings", "tokens", "requests"),
    [
        ({}, None, 1_000_000),
        ({"tier": 1}, 3_000_000, 1_000_000),
        ({"tier": 5, "max_enqueued_requests": 7}, 4_000_000_000, 7),
        ({"tier": 1, "max_enqueued_tokens": 5}, 5, 1_000_000),
    ],
)
def test_what_is_configured_stands_over_what_the_profile_knows(
    settings: Any, tokens: int | None, requests: int
) -> None:
    quota = quota_of(PROFILES["openai"], BatchConfig(budget_usd=2.0, **settings))
    assert quota.max_enqueued_tokens == quota.limit == tokens
    assert (quota.max_enqueued_requests, quota.budget_usd) == (requests, 2.0)


def test_a_tier_that_nobody_knows_is_told() -> None:
    with pytest.raises(ConfigError, match=r"batch\.tier = 2: local .*max_enqueued_tokens"):
        quota_of(PROFILES["local"], BatchConfig(tier=2))


def test_a_tier_says_nothing_of_other_endpoints() -> None:
    chat, batch = "/v1/chat/completions", BatchConfig(tier=3)
    with pytest.raises(ConfigError, match=r"batch\.tier = 3: .*embedding models alone.*chat/completions.*max_enqueued"):
        quota_of(PROFILES["openai"], batch, chat)
    told = batch.model_copy(update={"max_enqueued_tokens": 9})
    assert quota_of(PROFILES["openai"], told, chat).limit == 9
    assert quota_of(PROFILES["openai"], batch, "/v1/embeddings").limit == 100_000_000
