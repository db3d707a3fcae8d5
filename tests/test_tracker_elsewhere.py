"""A budget is over the life of the store: what other spaces spent, or have out, counts."""

from dataclasses import replace

from embedfill.records import Shard
from embedfill.tracker.elsewhere import Elsewhere
from embedfill.tracker.quota import Quota
from embedfill.tracker.state import State
from tests.tracker_fixtures import Tracker, texts_of


def of_space(tracker: Tracker, space: str, budget_usd: float | None) -> Tracker:
    account = replace(tracker.account, space=space)
    quota = Quota(None, budget_usd)
    return Tracker(account, State(account.store, account.cache, space), tracker.packing, quota, tracker.provider)


def plan(tracker: Tracker, count: int) -> list[Shard]:
    return tracker.plan(texts_of(count), max_inputs=count)


def test_what_another_space_spent_counts_against_the_budget(tracker: Tracker) -> None:
    first = of_space(tracker, "one", 0.010)
    plan(first, 6)
    assert first.advance().parked is None
    second = of_space(tracker, "two", 0.010)
    plan(second, 6)
    parked = second.advance().parked
    assert parked is not None and "$0.006 spent" in parked.message
    assert len(tracker.provider.batches) == 1
    second.quota = Quota(None, 0.012)
    assert second.advance().parked is None and len(tracker.provider.batches) == 2


def test_what_another_space_has_out_counts_at_the_price_of_its_claim(tracker: Tracker) -> None:
    tracker.provider.hold = True
    first = of_space(tracker, "one", None)
    plan(first, 6)
    first.advance(wait=False)
    second = of_space(tracker, "two", 0.010)
    plan(second, 6)
    assert second.advance(wait=False).parked is not None and len(tracker.provider.batches) == 1
    elsewhere = Elsewhere(tracker.account.store, tracker.account.cache, "two").refresh()
    assert (elsewhere.spent_usd(), round(elsewhere.out_usd(), 9), len(elsewhere.out())) == (0.0, 0.006, 1)
