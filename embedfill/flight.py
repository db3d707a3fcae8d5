"""What of a space is out at its provider, by age, and what its batches cost, read off the store. Asks no provider."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any

from embedfill.batchapi.windows import window_s
from embedfill.errors import StoreError
from embedfill.store.base import Store
from embedfill.tracker.elsewhere import Elsewhere
from embedfill.tracker.quota import Quota
from embedfill.tracker.state import ShardState, State, store_time

_NEAR = 0.8  # of the window


@dataclass(frozen=True, slots=True)
class BatchOut:
    """A shard that is claimed or submitted. `id` is the provider's, None while that is not known. `age_s` since its
    claim, by the store's clock; None where the store does not tell its time. `near_window`: 80 % of the completion
    window has gone, and what is not done by its end goes out again."""

    id: str | None
    shard: str
    attempt: int
    texts: int
    tokens: int
    age_s: float | None
    near_window: bool


@dataclass(frozen=True, slots=True)
class Flight:
    """Tokens are those that the provider has billed. What was billed at a price not known then counts at the one known
    now; `cost_usd` is None where there is none, `in_flight_usd` where there is no price; `left_usd`
    without a budget. What is enqueued is what `batches_out` come to. `elsewhere` is of the store's other spaces: what
    they spent or have out counts against the budget, and their batches come back when their own configuration runs."""

    batches: int
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float | None
    in_flight_usd: float | None
    budget_usd: float | None
    left_usd: float | None
    enqueued_tokens: int
    enqueued_requests: int
    max_enqueued_tokens: int | None
    max_enqueued_requests: int | None
    window: str
    batches_out: list[BatchOut]
    elsewhere_usd: float
    elsewhere_batches_out: int

    def values(self) -> dict[str, Any]:
        """The fields by name, for who extends it."""
        return {field.name: getattr(self, field.name) for field in fields(Flight)}


def flight_of(state: State, quota: Quota, window: str, price_of: Callable[[ShardState], float | None]) -> Flight:
    """Of a state that is fresh; `price_of` a shard that is out, None where it is not known."""
    outcomes, out = state.outcomes.values(), state.out()
    spent_usd = None if state.unpriced else state.spent_usd()
    in_flight_usd = _sum(price_of(shard) for shard in out)
    elsewhere = Elsewhere(state.store, state.cache, state.space).refresh()
    elsewhere_usd = elsewhere.spent_usd() + elsewhere.out_usd()
    return Flight(
        batches=len(outcomes),
        prompt_tokens=sum(outcome.prompt_tokens for outcome in outcomes),
        completion_tokens=sum(outcome.completion_tokens for outcome in outcomes),
        cost_usd=spent_usd,
        in_flight_usd=in_flight_usd,
        budget_usd=quota.budget_usd,
        left_usd=_left(quota.budget_usd, spent_usd, in_flight_usd, elsewhere_usd),
        enqueued_tokens=sum(shard.shard.tokens for shard in out),
        enqueued_requests=sum(shard.shard.requests for shard in out),
        max_enqueued_tokens=quota.max_enqueued_tokens,
        max_enqueued_requests=quota.max_enqueued_requests,
        window=window,
        batches_out=_batches_out(state.store, window, out),
        elsewhere_usd=elsewhere_usd,
        elsewhere_batches_out=len(elsewhere.out()),
    )


def _sum(prices: Iterable[float | None]) -> float | None:
    known = list(prices)
    return None if None in known else sum((price for price in known if price is not None), 0.0)


def _left(
    budget_usd: float | None, spent_usd: float | None, in_flight_usd: float | None, elsewhere_usd: float
) -> float | None:
    if budget_usd is None or spent_usd is None or in_flight_usd is None:
        return None
    return max(0.0, budget_usd - spent_usd - in_flight_usd - elsewhere_usd)


def _batches_out(store: Store, window: str, out: list[ShardState]) -> list[BatchOut]:
    """Oldest first."""
    now = None
    if out:
        with suppress(StoreError):  # its time is had by writing, and who looks may not be allowed to
            now = store_time(store)
    near_s = _NEAR * (window_s(window) or float("inf"))
    found = []
    for one in sorted(out, key=lambda one: one.claimed_at):
        age_s = max(0.0, now - one.claimed_at) if now is not None else None
        near = age_s is not None and age_s > near_s
        found.append(BatchOut(one.batch_id, one.shard.id, one.attempt, one.shard.texts, one.shard.tokens, age_s, near))
    return found
