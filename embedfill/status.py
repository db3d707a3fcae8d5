"""Where a store stands, read off it without changing anything: what is published, what is out, what was spent."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from embedfill.config import Config
from embedfill.index.publish import current
from embedfill.project import open_project
from embedfill.tracker.plan import refused_in
from embedfill.tracker.state import State


@dataclass(frozen=True, slots=True)
class Standing:
    """`shards` counts the shards of the configured space by state; `in_flight` are texts planned or out; `rejected`
    those of the published snapshot; `texts_refused` what providers have refused for good so far. `cost_usd` is None
    where the price of something that was sent is not known."""

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
    cost_usd: float | None


def standing(config: Config) -> Standing:
    """Reads the store. Raises UsageError where there is none yet."""
    project = open_project(config, read_only=True)
    published = current(project.store, project.cache)
    state = State(project.store, project.cache, project.space.id).refresh()
    snapshot = published.snapshot
    counts, index = (snapshot.counts, snapshot.index) if snapshot else (None, None)
    outcomes = state.outcomes.values()
    unpriced = any(outcome.cost_usd is None and outcome.prompt_tokens for outcome in outcomes)
    return Standing(
        store=project.store.url,
        snapshot=published.name,
        published=published.number,
        documents=counts.documents if counts else 0,
        chunks=counts.chunks if counts else 0,
        texts=counts.texts if counts else 0,
        rejected=counts.rejected if counts else 0,
        index={"kind": index.kind, "rows": index.rows, "recall_at_10": index.recall_at_10, "bytes": index.bytes}
        if index
        else {},
        model=project.model.name,
        shards=dict(Counter(shard.status.value for shard in state.shards.values())),
        in_flight=len(state.in_flight()),
        with_vectors=sum(outcome.vectors for outcome in outcomes),
        texts_refused=len(refused_in(state, config.batch.max_attempts).rejected),
        batches=len(state.outcomes),
        prompt_tokens=sum(outcome.prompt_tokens for outcome in outcomes),
        cost_usd=None if unpriced else state.spent_usd(),
    )
