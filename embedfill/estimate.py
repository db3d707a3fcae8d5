"""What a run would send and cost, before any spending: scans and chunks the corpus, packs what is missing, sends
nothing. What it chunks is kept, so the run that follows does not chunk it again."""

from dataclasses import dataclass

import numpy as np

from embedfill import ids
from embedfill.batchapi.prices import DATED, cost_usd
from embedfill.catalog.live import chunk_rows, load_live, wanted_texts
from embedfill.ids import IdSet
from embedfill.project import Project
from embedfill.records import Catalog, Shard
from embedfill.tracker.plan import Refused, blocked_ids, missing, pack, refused_in
from embedfill.tracker.state import State, Status


@dataclass(frozen=True, slots=True)
class Estimate:
    """`new` texts have no vector yet and are not out at the provider; `in_flight` ones are. `bytes` are those of the
    batch files to be uploaded; `cost_usd` is None where no price is known. Prices: USD per million tokens, as of `prices_dated`."""

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
    cost_usd: float | None
    price_per_million: float | None
    prices_dated: str = DATED


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
    live = load_live(project.cache, catalog.documents)
    wanted = wanted_texts(project.cache, catalog, np.unique(live.versions))
    waiting, out = _open_shards(state)  # what an earlier run planned and did not submit is still to be paid
    new, batches = sum(shard.texts for shard in waiting), len(waiting)
    tokens, requests = sum(shard.tokens for shard in waiting), sum(shard.requests for shard in waiting)
    size = sum(shard.file_bytes for shard in waiting)
    for shard in pack(missing(wanted, blocked_ids(state, refusals)), project.packing(project.quota()), refusals):
        new, batches, tokens = new + len(shard.rows), batches + 1, tokens + shard.tokens
        requests, size = requests + shard.requests, size + shard.file_bytes
    return Estimate(
        documents=catalog.count,
        chunks=whole.chunks,
        texts=len(whole.texts),
        rejected=catalog.rejected + rejected_texts(whole.texts, refusals),
        new=new,
        in_flight=sum(shard.texts for shard in out),
        prompt_tokens=tokens,
        batches=batches,
        requests=requests,
        bytes=size,
        cost_usd=cost_usd(tokens, project.price),
        price_per_million=project.price,
    )


def _open_shards(state: State) -> tuple[list[Shard], list[Shard]]:
    """Shards that are only planned, and those that are claimed or submitted."""
    planned = [one.shard for one in state.open() if one.status is Status.PLANNED]
    out = [one.shard for one in state.open() if one.status is not Status.PLANNED]
    return planned, out


def rejected_texts(wanted: IdSet, refusals: Refused) -> int:
    """How many of the wanted texts providers have refused for good."""
    return int(wanted.has(ids.array(sorted(refusals.rejected))).sum())
