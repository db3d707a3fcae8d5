"""Where a store stands, read off it without changing anything: what is published, what is out, what was spent. Asks no
provider."""

from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from embedfill.config import Config
from embedfill.duration import window_s
from embedfill.errors import StoreError
from embedfill.index.publish import current
from embedfill.project import Project, open_project
from embedfill.providers.profiles import window_of
from embedfill.records import IndexManifest, Outcome
from embedfill.tracker.plan import refused_in
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
class Standing:
    """`shards` counts the shards of the configured space by state; `in_flight` are texts planned or out; `rejected`
    those of the published snapshot; `texts_refused` what providers have refused for good so far. Tokens are those that
    the provider has billed. `cost_usd` is None where the price of something that was sent is not known, `in_flight_usd`
    where there is no price; `left_usd` without a budget. What is enqueued is what `batches_out` come to."""

    store: str
    snapshot: str
    published: int
    documents: int
    chunks: int
    texts: int
    rejected: int
    index: dict[str, Any]
    model: str
    shards: dict[str, int]
    in_flight: int
    with_vectors: int
    texts_refused: int
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


def standing(config: Config) -> Standing:
    """Reads the store. Raises UsageError where there is none yet."""
    project = open_project(config, read_only=True)
    published = current(project.store, project.cache)
    state = State(project.store, project.cache, project.space.id).refresh()
    counts = published.snapshot.counts if published.snapshot else None
    outcomes, out, quota = state.outcomes.values(), state.out(), project.quota()
    spent_usd, in_flight_usd = _spent(outcomes), _price(project, out)
    return Standing(
        store=project.store.url,
        snapshot=published.name,
        published=published.number,
        documents=counts.documents if counts else 0,
        chunks=counts.chunks if counts else 0,
        texts=counts.texts if counts else 0,
        rejected=counts.rejected if counts else 0,
        index=_index(published.snapshot.index) if published.snapshot else {},
        model=project.model.name,
        shards=dict(Counter(shard.status.value for shard in state.shards.values())),
        in_flight=sum(shard.shard.texts for shard in state.open()),
        with_vectors=sum(outcome.vectors for outcome in outcomes),
        texts_refused=len(refused_in(state, config.batch.max_attempts).rejected),
        batches=len(state.outcomes),
        prompt_tokens=sum(outcome.prompt_tokens for outcome in outcomes),
        completion_tokens=sum(outcome.completion_tokens for outcome in outcomes),
        cost_usd=spent_usd,
        in_flight_usd=in_flight_usd,
        budget_usd=quota.budget_usd,
        left_usd=_left(quota.budget_usd, spent_usd, in_flight_usd),
        enqueued_tokens=sum(shard.shard.tokens for shard in out),
        enqueued_requests=sum(shard.shard.requests for shard in out),
        max_enqueued_tokens=quota.max_enqueued_tokens,
        max_enqueued_requests=config.batch.max_enqueued_requests,
        window=window_of(project.profile, config.batch),
        batches_out=_batches_out(project, out),
    )


def _index(index: IndexManifest) -> dict[str, Any]:
    return {"kind": index.kind, "rows": index.rows, "recall_at_10": index.recall_at_10, "bytes": index.bytes}


def _spent(outcomes: Iterable[Outcome]) -> float | None:
    """None where something was billed at a price that is not known."""
    if any(outcome.cost_usd is None and outcome.prompt_tokens for outcome in outcomes):
        return None
    return sum((outcome.cost_usd or 0.0 for outcome in outcomes), 0.0)


def _price(project: Project, out: list[ShardState]) -> float | None:
    prices = [project.price_of(shard.shard) for shard in out]
    return None if None in prices else sum((price for price in prices if price is not None), 0.0)


def _left(budget_usd: float | None, spent_usd: float | None, in_flight_usd: float | None) -> float | None:
    if budget_usd is None or spent_usd is None or in_flight_usd is None:
        return None
    return max(0.0, budget_usd - spent_usd - in_flight_usd)


def _batches_out(project: Project, out: list[ShardState]) -> list[BatchOut]:
    """Oldest first."""
    now = None
    if out:
        with suppress(StoreError):  # its time is had by writing, and who looks may not be allowed to
            now = store_time(project.store)
    near_s = _NEAR * (window_s(window_of(project.profile, project.config.batch)) or float("inf"))
    found = []
    for one in sorted(out, key=lambda one: one.claimed_at):
        age_s = max(0.0, now - one.claimed_at) if now is not None else None
        near = age_s is not None and age_s > near_s
        found.append(BatchOut(one.batch_id, one.shard.id, one.attempt, one.shard.texts, one.shard.tokens, age_s, near))
    return found
