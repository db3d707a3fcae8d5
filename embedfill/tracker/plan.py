"""What is still to be embedded, and the plan that commits to it: texts wanted - with vectors - rejected - in flight."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from embedfill import ids
from embedfill.ids import IdSet
from embedfill.records import Refusal, Rejection, Shard
from embedfill.store import layout
from embedfill.tracker.shards import Packed, Packer, Packing, shard_record, write_shard
from embedfill.tracker.state import State

WANTED = pa.schema([("text_id", ids.ID_TYPE), ("text", pa.string()), ("tokens", pa.int32())])


@dataclass(frozen=True, slots=True)
class Refused:
    """What providers refused so far. `rejected`: often enough, with their words; `suspect`: must go out alone."""

    rejected: dict[bytes, Rejection]
    suspect: frozenset[bytes]


def refused(refusals: Iterable[Refusal], max_attempts: int) -> Refused:
    """A text is rejected after `max_attempts` refusals, the last of them for itself alone: one bad input fails the
    whole request that it is in, so its neighbours are only suspected."""
    counts: Counter[bytes] = Counter()
    words: dict[bytes, Rejection] = {}
    for refusal in refusals:
        text_id = bytes.fromhex(refusal.text_id)
        counts[text_id] += 1
        if refusal.alone:
            words[text_id] = Rejection(refusal.code, refusal.message, text_id=refusal.text_id)
    rejected = {
        text_id: words[text_id] for text_id, count in counts.items() if count >= max_attempts and text_id in words
    }
    return Refused(rejected, frozenset(counts))


def missing(wanted: Iterable[Any], blocked: IdSet) -> Iterator[Any]:
    """The rows (schema WANTED) whose text is not in `blocked`, each text once. Adds them to `blocked`."""
    for batch in wanted:
        new = blocked.add(ids.from_arrow(batch.column("text_id")))
        if new.any():
            yield batch.filter(pa.array(new))


def blocked_ids(state: State, refusals: Refused) -> IdSet:
    """Texts that must not go out: with vectors, in flight, or rejected."""
    blocked = state.have()
    blocked.add(state.in_flight().sorted())
    blocked.add(ids.array(sorted(refusals.rejected)))
    return blocked


def make_plan(
    state: State, wanted: Callable[[], Iterable[Any]], packing: Packing, max_attempts: int, scratch: Path
) -> list[Shard]:
    """Packs what is missing into shards and commits to them as the next plan; no shards: nothing is missing.

    Another planner may commit the same number first: then its plan is read and everything is computed anew.
    """
    while True:
        state.refresh()
        refusals = refused(state.refusals(), max_attempts)
        number = state.plans + 1
        packed = pack(missing(wanted(), blocked_ids(state, refusals)), packing, refusals)
        shards = [_put(state, one, number, scratch) for one in packed]
        if not shards:
            return []
        plan = {"number": number, "space": state.space, "shards": [asdict(shard) for shard in shards], "retired": []}
        if state.store.create(layout.plan(state.space, number), ids.canonical(plan)):
            state.refresh()
            return shards


def pack(batches: Iterable[Any], packing: Packing, refusals: Refused) -> Iterator[Packed]:
    """The texts of record batches (schema WANTED) in shards; suspected ones in requests of their own."""
    packer = Packer(packing)
    for batch in batches:
        columns = [batch.column(name).to_pylist() for name in WANTED.names]
        for text_id, text, tokens in zip(*columns, strict=True):
            if full := packer.add(text_id, text, tokens, text_id in refusals.suspect):
                yield full
    rest = packer.finish()
    if rest.rows:
        yield rest


def _put(state: State, packed: Packed, number: int, scratch: Path) -> Shard:
    shard = shard_record(packed, state.space, number)
    path = scratch / f"{os.getpid()}-{shard.id}.parquet"
    try:
        write_shard(packed, path)
        state.store.put_file(shard.key, path)
    finally:
        path.unlink(missing_ok=True)
    return shard
