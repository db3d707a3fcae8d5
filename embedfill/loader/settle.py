"""An ended batch to its outcome: decodes its files, puts the pack, its ids and the refusals into the store.

What an outcome refers to is there before the outcome; the tracker writes the outcome itself.
"""

import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from embedfill import ids
from embedfill.batchapi.models import Batch
from embedfill.batchapi.prices import cost_usd
from embedfill.loader.load import Loaded, Requests, load_batch
from embedfill.loader.packs import put_pack
from embedfill.records import Outcome, Refusal, Shard
from embedfill.store import layout
from embedfill.store.base import Store
from embedfill.store.cache import Cache
from embedfill.tracker.shards import request_tokens, shard_ids
from embedfill.tracker.state import ShardState

_KEEP_ERRORS = 20


@dataclass(frozen=True, slots=True)
class Settler:
    """Callable as `embedfill.tracker.collect.Settle`."""

    store: Store
    cache: Cache
    space: str
    dimensions: int
    price_per_million: float | None
    at: Callable[[str], None] = lambda _point: None  # named points of the write order, for crash tests

    def __call__(self, state: ShardState, batch: Batch, files: list[Path]) -> Outcome:
        scratch = self.cache.scratch("packs")
        pack = scratch / f"{state.shard.id}-{secrets.token_hex(4)}.parquet"
        try:
            loaded = load_batch(self.requests(state.shard), files, self.dimensions, pack)
            self.at("after-decode")
            packs = (put_pack(self.store, self.space, pack, loaded.ids, self.at),) if loaded.vectors else ()
        finally:
            pack.unlink(missing_ok=True)
        self.at("before-refusals")
        return self._outcome(state, batch, loaded, packs)

    def requests(self, shard: Shard) -> Requests:
        text_ids, numbers = shard_ids(self.cache.path(shard.key))
        starts = np.searchsorted(numbers, np.arange(shard.requests + 1)).tolist()
        return Requests(shard.id, text_ids, starts)

    def _outcome(self, state: ShardState, batch: Batch, loaded: Loaded, packs: tuple[str, ...]) -> Outcome:
        tokens = self._billed(state.shard, batch, loaded)
        return Outcome(
            shard=state.shard.id,
            attempt=state.attempt,
            batch_id=batch.id,
            status=batch.status,
            texts=state.shard.texts,
            vectors=loaded.vectors,
            refused=len(loaded.refusals),
            prompt_tokens=tokens,
            cost_usd=cost_usd(tokens, self.price_per_million),
            packs=packs,
            refusals=put_refusals(self.store, self.space, [*loaded.refusals, *loaded.unusable], loaded.odd_lines),
            anomalies=dict(sorted(loaded.anomalies.items())),
            errors=errors_of(batch, loaded.anomalies, loaded.vectors),
            completion_tokens=0,
            seconds=batch.seconds,
        )

    def _billed(self, shard: Shard, batch: Batch, loaded: Loaded) -> int:
        """The batch's word, else the sum of its lines'; of those that say nothing, our own count of what they answer:
        better a guess in the spending record than something that was had for nothing."""
        stated = batch.usage.input_tokens if batch.usage else 0
        if stated:
            if loaded.prompt_tokens and stated != loaded.prompt_tokens:
                loaded.anomalies["usage_differs"] += 1
            return stated
        if not loaded.unmetered:
            return loaded.prompt_tokens
        loaded.anomalies["usage_missing"] += len(loaded.unmetered)
        counted = request_tokens(self.cache.path(shard.key), shard.requests)
        return loaded.prompt_tokens + int(counted[loaded.unmetered].sum())


def errors_of(batch: Batch, anomalies: Counter[str], good: int) -> tuple[str, ...]:
    """The provider's words on the batch; where it brought nothing good at all, also what was odd about it."""
    said = [f"{error.code}: {error.message}" for error in batch.errors.data[:_KEEP_ERRORS]] if batch.errors else []
    if anomalies and not good:
        said.append(", ".join(f"{kind} ({count:,})" for kind, count in anomalies.most_common(5)))
    return tuple(said)


def put_refusals(store: Store, space: str, refusals: Iterable[Refusal], odd_lines: Sequence[str]) -> str | None:
    """What cost texts a try and the lines that made no sense, as one small object; None without any."""
    found = sorted(refusals, key=lambda refusal: (refusal.text_id, refusal.code))
    if not found and not odd_lines:
        return None
    data = ids.canonical({"refusals": [asdict(one) for one in found], "odd_lines": sorted(odd_lines)})
    key = layout.refusals(space, ids.digest_hex("refusals", data))
    store.create(key, data)
    return key
