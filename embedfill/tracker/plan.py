"""What is still to be embedded, and the plan that commits to it: texts wanted - with vectors - rejected - in flight."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from embedfill import ids
from embedfill.ids import IdSet
from embedfill.records import Refusal, Rejection, Shard
from embedfill.store import layout
from embedfill.tracker.forgive import forgiven
from embedfill.tracker.shards import Packed, Packer, Packing, shard_record, write_shard
from embedfill.tracker.state import State

WANTED = pa.schema([("text_id", ids.ID_TYPE), ("text", pa.string()), ("tokens", pa.int32())])


_NARROWER = 10  # times fewer inputs in the next request: a round may take a day, so not by halves


@dataclass(frozen=True, slots=True)
class Refused:
    """What providers refused so far. `rejected`: often enough, with their words and the number of refusals; `suspect`:
    how many inputs the next request of a text may hold."""

    rejected: dict[bytes, Rejection]
    suspect: dict[bytes, int]
    counts: Mapping[bytes, int] = field(default_factory=dict)


def refused(
    refusals: Iterable[Refusal], max_attempts: int, forgiven: Mapping[bytes, int] = MappingProxyType({})
) -> Refused:
    """A text is rejected after `max_attempts` refusals that are not forgiven, if one of all was for itself alone.

    One bad input fails the whole request that it is in, so its neighbours are only suspected: each goes out in a
    request of a tenth as many inputs as the smallest that was refused with it. So a bad one of a hundred texts is
    alone in its third try, one of 2,048 in its fifth, however few tries are allowed.
    """
    counts: Counter[bytes] = Counter()
    smallest: dict[bytes, int] = {}
    words: dict[bytes, Rejection] = {}
    for refusal in refusals:
        text_id = bytes.fromhex(refusal.text_id)
        counts[text_id] += 1
        smallest[text_id] = min(refusal.inputs, smallest.get(text_id, refusal.inputs))
        if refusal.alone:
            words[text_id] = Rejection(refusal.code, refusal.message, text_id=refusal.text_id)
    rejected = {
        text_id: words[text_id]
        for text_id, count in counts.items()
        if count - forgiven.get(text_id, 0) >= max_attempts and text_id in words
    }
    return Refused(rejected, {text_id: -(-inputs // _NARROWER) for text_id, inputs in smallest.items()}, counts)


def refused_in(state: State, max_attempts: int) -> Refused:
    """What the providers of a space refused so far, less what is forgiven."""
    return refused(state.refusals(), max_attempts, forgiven(state))


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
        refusals = refused_in(state, max_attempts)
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
    """The texts of record batches (schema WANTED) in shards; suspected ones in smaller requests, without others."""
    packer = Packer(packing)
    for batch in batches:
        columns = [batch.column(name).to_pylist() for name in WANTED.names]
        for text_id, text, tokens in zip(*columns, strict=True):
            if full := packer.add(text_id, text, tokens, refusals.suspect.get(text_id)):
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
