"""What a run would send and cost, before any spending: scans and chunks the corpus, packs what is missing, sends
nothing. What it chunks is kept, so the run that follows does not chunk it again."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from embedfill import ids
from embedfill.batchapi.prices import DATED, cost_usd
from embedfill.catalog.live import chunk_rows, load_live, wanted_texts
from embedfill.duration import Duration, duration
from embedfill.ids import IdSet
from embedfill.project import Project
from embedfill.providers.profiles import window_of
from embedfill.records import Catalog
from embedfill.room import Room, Work, rooms
from embedfill.tracker.elsewhere import Elsewhere
from embedfill.tracker.plan import Refused, blocked_ids, missing, pack, refused_in
from embedfill.tracker.shards import Packing
from embedfill.tracker.state import State, Status
from embedfill.tracker.sums import sums_of


@dataclass(frozen=True, slots=True)
class Estimate:
    """`new` texts have no vector yet and are not out at the provider; `in_flight` ones are. `bytes` are those of the
    batch files to be uploaded, `download_bytes` what comes back, both at most; `cost_usd` (`sync_cost_usd`: through the
    synchronous endpoint) is None where no price is known, `left_usd` of the budget where there is none. Prices: USD per million tokens, as of
    `prices_dated`, None for one of the configuration's own. `duration` counts what is out already, too. `disk`
    names the folders that grow: store, cache, engine."""

    documents: int
    chunks: int
    texts: int
    rejected: int
    new: int
    in_flight: int
    prompt_tokens: int
    batches: int
    requests: int
    bytes: int
    download_bytes: int
    cost_usd: float | None
    sync_cost_usd: float | None
    left_usd: float | None
    price_per_million: float | None
    prices_dated: str | None
    duration: Duration
    disk: Mapping[str, Room]


@dataclass(frozen=True, slots=True)
class Totals:
    """What the corpus comes to: chunk rows of live documents, and their distinct texts."""

    chunks: int
    texts: IdSet


def totals(project: Project, catalog: Catalog) -> Totals:
    """Counts places and distinct texts. Documents of equal content count a place each."""
    live = load_live(project.cache, catalog.documents)
    versions, per_version = np.unique(live.versions, return_counts=True)
    chunks, texts = 0, IdSet()
    for batch in chunk_rows(project.cache, catalog, versions, ["version", "text_id"]):
        at, _ = ids.find(versions, ids.from_arrow(batch.column("version")))
        chunks += int(per_version[at].sum())
        texts.add(ids.from_arrow(batch.column("text_id")))
    return Totals(chunks, texts)


def estimate(project: Project, catalog: Catalog, state: State) -> Estimate:
    """What `run` would submit now. Changes nothing."""
    state.refresh()
    refusals = refused_in(state, project.config.batch.max_attempts)
    whole = totals(project, catalog)
    packing, out = project.packing(project.quota()), [one.shard for one in state.out()]
    work, tokens, requests, batches = Work(), 0, 0, 0
    for shard in _unpaid(project, catalog, state, refusals, packing):
        work = work.add(shard.texts, shard.bytes, packing.output_bytes(shard.texts, shard.requests))
        tokens, requests, batches = tokens + shard.tokens, requests + shard.requests, batches + 1
    return Estimate(
        documents=catalog.count,
        chunks=whole.chunks,
        texts=len(whole.texts),
        rejected=catalog.rejected + rejected_texts(whole.texts, refusals),
        new=work.texts,
        in_flight=sum(shard.texts for shard in out),
        prompt_tokens=tokens,
        batches=batches,
        requests=requests,
        bytes=work.upload,
        download_bytes=work.download,
        cost_usd=cost_usd(tokens, project.price),
        sync_cost_usd=cost_usd(tokens, project.sync_price),
        left_usd=_left_usd(project, state),
        price_per_million=project.price,
        prices_dated=DATED if project.config.embedding.price_per_million is None else None,
        duration=_duration(project, tokens, requests, batches, state),
        disk=rooms(project, work, catalog.count, whole.chunks, len(whole.texts)),
    )


@dataclass(frozen=True, slots=True)
class _Batch:
    """A batch to be sent: sizes alone."""

    texts: int
    requests: int
    tokens: int
    bytes: int


def _unpaid(project: Project, catalog: Catalog, state: State, refusals: Refused, packing: Packing) -> Iterator[_Batch]:
    """What an earlier run planned and did not submit, then what the next plan would hold."""
    for one in state.open():
        if one.status is Status.PLANNED:
            yield _Batch(one.shard.texts, one.shard.requests, one.shard.tokens, one.shard.file_bytes)
    versions = np.unique(load_live(project.cache, catalog.documents).versions)
    rows = missing(wanted_texts(project.cache, catalog, versions), blocked_ids(state, refusals))
    for packed in pack(rows, packing, refusals):
        yield _Batch(len(packed.rows), packed.requests, packed.tokens, packed.file_bytes)


def _left_usd(project: Project, state: State) -> float | None:
    budget = project.config.batch.budget_usd
    if budget is None or state.unpriced:
        return None
    elsewhere = Elsewhere(project.store, project.cache, project.space.id).refresh()
    return max(0.0, budget - elsewhere.count(sums_of(state, project.price_of)).usd)


def _duration(project: Project, tokens: int, requests: int, batches: int, state: State) -> Duration:
    """Of what is to be sent, after what is out."""
    batches += len(state.out())
    tokens += sum(one.shard.tokens for one in state.out())
    requests += sum(one.shard.requests for one in state.out())
    local = project.profile.name == "local"
    window = None if local else window_of(project.profile, project.config.batch)
    return duration(tokens, requests, batches, project.quota(), window, state.outcomes.values())


def rejected_texts(wanted: IdSet, refusals: Refused) -> int:
    """How many of the wanted texts providers have refused for good."""
    return int(wanted.has(ids.array(sorted(refusals.rejected))).sum())
