"""Money: what is spent, submitted and claimed against the budget, and the provider's own billing limits."""

from typing import Any

import pytest

from embedfill.errors import BillingError
from embedfill.records import Outcome
from embedfill.tracker.budget import affords, billing_limit
from embedfill.tracker.submit import submit
from embedfill.tracker.sums import Amount, Sums, sums_of
from tests.provider_fixtures import drop
from tests.tracker_fixtures import Tracker, price_of, texts_of


def sums(spent: float, posted: float, claimed: float) -> Sums:
    return Sums(spent, Amount(1, 1, posted), Amount(1, 1, claimed))


@pytest.mark.parametrize(
    ("budget", "price", "fits"),
    [(None, 9.0, True), (6.0, 3.0, True), (6.0, 0.0, True), (6.0, None, True), (5.9, 3.0, False), (0.3, 0.1, True)],
)
def test_all_that_is_known_counts(budget: float | None, price: float | None, fits: bool) -> None:
    known = sums(0.1, 0.1, 0.0) if budget == 0.3 else sums(1.0, 1.5, 0.5)
    assert affords(budget, known, price) is fits


@pytest.mark.parametrize(("spent", "posted"), [(4.0, 0.0), (1.0, 3.0), (0.0, 4.0)])
def test_what_can_no_longer_fit_is_told(spent: float, posted: float) -> None:
    with pytest.raises(BillingError, match=r"\(\$2\) would exceed budget_usd = 5.0: .* in flight") as raised:
        affords(5.0, sums(spent, posted, 0.5), 2.0)
    assert f"${spent:.6g} spent, ${posted + 0.5:.6g} in flight" in raised.value.message
    assert raised.value.exit_code == 5 and "batch.budget_usd" in raised.value.hint


def test_claims_that_may_never_be_posted_are_waited_for() -> None:
    assert affords(5.0, sums(1.0, 1.0, 1.5), 2.0) is False


def test_sums_over_what_is_settled_submitted_and_claimed(tracker: Tracker) -> None:
    tracker.embed(texts_of(3))
    tracker.provider.hold = True
    submit(tracker.account, tracker.planned(*texts_of(4, start=3)))
    tracker.provider.script("POST", "/batches", drop)
    doubtful = tracker.planned(*texts_of(2, start=7))
    submit(tracker.account, doubtful)
    tracker.planned(*texts_of(5, start=9))
    found = sums_of(tracker.again().state.refresh(), price_of)
    assert found.spent_usd == pytest.approx(0.003)
    assert (found.posted.tokens, found.posted.requests) == (4, 1)
    assert (found.claimed.tokens, found.claimed.requests) == (2, 1)
    assert [found.posted.usd, found.claimed.usd] == pytest.approx([0.004, 0.002])
    assert (found.tokens, found.requests) == (6, 2)
    assert sums_of(tracker.state, price_of, besides=doubtful.shard.id).tokens == 4


@pytest.mark.parametrize(
    ("values", "parks"),
    [
        ({"errors": ("insufficient_quota: you have run out",)}, True),
        ({"errors": ("empty_file: nothing", "billing_hard_limit_reached: no")}, True),
        ({"anomalies": {"insufficient_quota": 3}}, True),
        ({"errors": ("token_limit_exceeded: insufficient_quota",)}, False),
        ({"anomalies": {"batch_expired": 3}}, False),
    ],
)
def test_billing_limits_are_known_wherever_they_stand(values: Any, parks: bool) -> None:
    found = billing_limit(Outcome("s", 1, "batch-1", "failed", 5, 0, 0, 0, None, (), **values))
    assert (found is not None) is parks
    assert found is None or ("batch-1" in found.message and "raise the limit" in found.hint)
