"""Where every shard of a space stands, derived from listings of the store. Holds nothing that is not in the store.

PLANNED    in a plan, no claim that is still open
CLAIMED    a claim without a batch reference: being submitted, or in doubt
SUBMITTED  a batch reference names the provider's batch
SETTLED    an outcome stands
"""

import math
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum

import numpy as np
import orjson

from embedfill import ids
from embedfill.errors import MissingError, StoreError
from embedfill.ids import IdArray, IdSet
from embedfill.records import Claim, Maker, Outcome, Refusal, Shard
from embedfill.store import layout
from embedfill.store.base import Entry, Store
from embedfill.store.cache import Cache, parse_json
from embedfill.tracker.remember import Memory
from embedfill.tracker.shards import shard_ids


class Status(Enum):
    PLANNED = "planned"
    CLAIMED = "claimed"
    SUBMITTED = "submitted"
    SETTLED = "settled"


@dataclass(slots=True)
class ShardState:
    """A planned shard. `attempt` is its newest claim's number (0: none); `batch_id` None with `void` False: no
    reference yet. `claimed_at` is by the store's clock, infinite until a listing tells."""

    shard: Shard
    attempt: int = 0
    claimed_at: float = math.inf
    batch_id: str | None = None
    void: bool = False
    settled: bool = False
    retired_at: int | None = None  # the attempt that a plan's retirement has closed

    @property
    def retired(self) -> bool:
        """Whether its texts went back to be planned anew. A later claim stands against that as long as it is open: its
        maker may not have seen the retirement."""
        return self.retired_at is not None and (self.attempt <= self.retired_at or self.void)

    @property
    def status(self) -> Status:
        if self.settled or self.retired:
            return Status.SETTLED
        if self.attempt == 0 or self.void:
            return Status.PLANNED
        return Status.SUBMITTED if self.batch_id else Status.CLAIMED


class State:
    """The shards and outcomes of one space. `refresh` lists again; what is immutable is read once. `cost_of` is what an
    outcome counts for: what it says itself, unless told otherwise; None: not known."""

    def __init__(
        self,
        store: Store,
        cache: Cache,
        space: str,
        cost_of: Callable[[Outcome], float | None] = lambda outcome: outcome.cost_usd,
    ) -> None:
        self.store = store
        self.cache = cache
        self.space = space
        self.plans = 0
        self.shards: dict[str, ShardState] = {}
        self.outcomes: dict[str, Outcome] = {}
        self._memory = Memory(store, cache, space)
        self._last_plan = ""
        self._open: dict[str, ShardState] = {}  # not settled, in the order they were planned
        self._settled: dict[str, int] = {}  # shard to the attempt that settled it
        self._claims: dict[str, Claim] = {}
        self._cost_of = cost_of
        self._spent_usd = 0.0
        self.unpriced: list[Outcome] = []  # tokens were billed, at a price that is not known

    def refresh(self) -> "State":
        self._see_plans()
        listed = [entry.key for entry in self.store.list(layout.outcome(self.space))]
        for key, outcome in self._memory.outcomes(key for key in listed if key not in self.outcomes).items():
            self.add_outcome(key, outcome)
        self._see_claims(list(self.store.list(layout.claim(self.space))))
        self._see_references(entry.key for entry in self.store.list(layout.batch(self.space)))
        self._memory.save(self.outcomes)
        return self

    def open(self) -> list[ShardState]:
        """Shards that are not settled, in the order they were planned."""
        return [shard for shard in self._open.values() if not (shard.settled or shard.retired)]

    def out(self) -> list[ShardState]:
        """Shards that are claimed or submitted: what counts against limits and the budget."""
        return [shard for shard in self.open() if shard.status is not Status.PLANNED]

    def add_outcome(self, key: str, outcome: Outcome) -> None:
        """Takes in an outcome that stands in the store. Its shard's plan may be one that is not read yet."""
        if key not in self.outcomes:
            cost = self._cost_of(outcome)
            self._spent_usd += cost or 0.0
            if cost is None and outcome.prompt_tokens:
                self.unpriced.append(outcome)
        self.outcomes[key] = outcome
        self._settled[outcome.shard] = outcome.attempt
        self._open.pop(outcome.shard, None)
        shard = self.shards.get(outcome.shard)
        if shard is not None:
            shard.settled, shard.attempt = True, max(shard.attempt, outcome.attempt)

    def claim(self, shard: ShardState) -> Claim:
        """The shard's newest claim. Raises MissingError where it has none."""
        key = layout.claim(self.space, shard.shard.id, shard.attempt)
        if key not in self._claims:
            self._claims[key] = parse_claim(self.store.read(key))
        return self._claims[key]

    def packs(self) -> list[str]:
        """Keys of all packs that outcomes refer to, in key order: the same everywhere."""
        return sorted({pack for outcome in self.outcomes.values() for pack in outcome.packs})

    def in_flight(self) -> IdSet:
        """Ids of all texts of shards that are not settled."""
        return self._gather(shard_ids(self.cache.path(state.shard.key))[0] for state in self.open())

    def have(self) -> IdSet:
        """Ids of all texts with vectors."""
        return self._gather(np.frombuffer(self.cache.read(layout.pack_ids(pack)), dtype="S16") for pack in self.packs())

    def refusals(self) -> Iterator[Refusal]:
        """Every refusal of every settled batch. Batches that were refused alike share an object, and each one counts."""
        for key in sorted(outcome.refusals for outcome in self.outcomes.values() if outcome.refusals):
            yield from (Refusal(**value) for value in self.cache.json(key)["refusals"])

    def open_tokens(self) -> int:
        """Prompt tokens of what is claimed or submitted: what counts against an enqueued-token limit."""
        return sum(state.shard.tokens for state in self.out())

    def spent_usd(self) -> float:
        """What all outcomes cost, as far as their prices are known."""
        return self._spent_usd

    @staticmethod
    def _gather(arrays: Iterator[IdArray]) -> IdSet:
        found = list(arrays)
        return IdSet(np.concatenate(found)) if found else IdSet()

    def _add_plan(self, key: str) -> None:
        plan = parse_json(key, self.store.read(key))
        self._last_plan, self.plans = key, layout.number_of(key)
        for value in plan["shards"]:
            name, attempt = value["id"], self._settled.get(value["id"], 0)
            shard = self.shards[name] = ShardState(Shard(**value), attempt, settled=name in self._settled)
            if not shard.settled:
                self._open[name] = shard
        for shard_id, attempt in plan.get("retired", []):
            self.shards[shard_id].retired_at = attempt

    def _see_plans(self) -> None:
        for entry in self.store.list(layout.plan(self.space), self._last_plan):
            self._add_plan(entry.key)

    def _see_claims(self, listed: Iterable[Entry]) -> None:
        """Those that an outcome answers say nothing new, and are nearly all. Raises StoreError for one whose shard no
        plan names: what it stands for is paid, and would be paid again."""
        above, answered = layout.claim(self.space), layout.outcome(self.space)
        unanswered = [entry for entry in listed if answered + entry.key[len(above) :] not in self.outcomes]
        if not self._all_known(unanswered):
            self._see_plans()  # made since they were listed
            if not self._all_known(unanswered):
                hint = "bring its plans/ back from a backup; without them texts in flight would be paid for twice"
                raise StoreError(f"plans are missing in {self.store.url}: a claim's shard is in none of them", hint)
        for entry in unanswered:
            self._see_claim(entry)

    def _all_known(self, claims: Iterable[Entry]) -> bool:
        known = self.shards.keys() | self._settled.keys()
        return all(layout.attempt_of(entry.key)[0] in known for entry in claims)

    def _see_claim(self, entry: Entry) -> None:
        shard_id, attempt = layout.attempt_of(entry.key)
        state = self.shards.get(shard_id)
        if state is None or attempt < state.attempt:
            return
        if attempt > state.attempt:
            state.batch_id, state.void = None, False
            state.attempt, state.claimed_at = attempt, math.inf
        if shard_id in self._open:
            with suppress(MissingError):  # pruned meanwhile: others have settled the shard since
                state.claimed_at = entry.modified

    def _see_references(self, keys: Iterator[str]) -> None:
        """Those of the newest claims of open shards. Older ones say nothing any more."""
        newest = {layout.batch(self.space, name, state.attempt): state for name, state in self._open.items()}
        for key, batch_id in self._memory.references(key for key in keys if key in newest).items():
            newest[key].batch_id, newest[key].void = batch_id, batch_id is None


def spaces(store: Store) -> list[str]:
    """Every space of a store that has plans."""
    return list(dict.fromkeys(layout.space_of(entry.key) for entry in store.list(layout.PLANS)))


def reference(batch_id: str | None, reason: str = "") -> bytes:
    """The batch reference of a claim: the provider's batch, or void with the reason."""
    return ids.canonical({"batch_id": batch_id, "reason": reason})


def read_reference(store: Store, key: str) -> tuple[bool, str | None]:
    """Whether a reference stands, and the batch it names (None: void)."""
    try:
        return True, parse_json(key, store.read(key))["batch_id"]
    except MissingError:
        return False, None


def store_time(store: Store) -> float:
    """Now, by the store's own clock: the time it gives an object made this moment."""
    key = layout.clock(secrets.token_hex(8))
    store.create(key, b"")
    try:
        return next(entry.modified for entry in store.list(key))
    finally:
        store.delete(key)


def parse_claim(data: bytes) -> Claim:
    value = orjson.loads(data)
    return Claim(**{**value, "maker": Maker(**value["maker"])})
