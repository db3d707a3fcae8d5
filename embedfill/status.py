"""Where a store stands, read off it without changing anything: what is published, what is out, what was spent. Asks no
provider."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from embedfill.config import Config
from embedfill.flight import Flight, flight_of
from embedfill.index.publish import current
from embedfill.project import open_project
from embedfill.providers.profiles import window_of
from embedfill.records import IndexManifest
from embedfill.tracker.plan import refused_in
from embedfill.tracker.state import Status


@dataclass(frozen=True, slots=True)
class Standing(Flight):
    """`shards` counts the shards of the configured space by state; `planned` are texts still to be sent, `in_flight`
    those that are out; `rejected` those of the published snapshot; `texts_refused` what providers have refused for
    good so far."""

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
    planned: int
    in_flight: int
    with_vectors: int
    texts_refused: int


def standing(config: Config) -> Standing:
    """Reads the store. Raises UsageError where there is none yet."""
    project = open_project(config, read_only=True)
    published = current(project.store, project.cache)
    state = project.state().refresh()
    counts = published.snapshot.counts if published.snapshot else None
    window = window_of(project.profile, config.batch)
    flight = flight_of(state, project.quota(), window, lambda shard: project.price_of(shard.shard))
    return Standing(
        **flight.values(),
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
        planned=sum(shard.shard.texts for shard in state.open() if shard.status is Status.PLANNED),
        in_flight=sum(shard.shard.texts for shard in state.out()),
        with_vectors=sum(outcome.vectors for outcome in state.outcomes.values()),
        texts_refused=len(refused_in(state, config.batch.max_attempts).rejected),
    )


def _index(index: IndexManifest) -> dict[str, Any]:
    return {"kind": index.kind, "rows": index.rows, "recall_at_10": index.recall_at_10, "bytes": index.bytes}
