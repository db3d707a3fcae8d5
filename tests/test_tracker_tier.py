"""A simulated account of tier 1: how well the quota is used where counters release late, and how rarely it is hit."""

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from embedfill import ids
from embedfill.batchapi.limits import OPENAI
from embedfill.providers.client import BatchClient
from embedfill.providers.profiles import Patience
from embedfill.store.cache import Cache
from embedfill.store.memory import MemoryStore
from embedfill.tracker.maker import this_maker
from embedfill.tracker.plan import WANTED, make_plan
from embedfill.tracker.quota import Quota
from embedfill.tracker.shards import Packing
from embedfill.tracker.state import State
from embedfill.tracker.submit import Account
from tests.fate_fixtures import DIMENSIONS, Fate, Life
from tests.provider_fixtures import InProcess, Provider
from tests.tracker_fixtures import REQUEST, SPACE, Tracker
from tests.virtual_fixtures import VirtualClock

LIMIT = 3_000_000
TOKENS = 5_000  # of each text
TEXTS = [f"text number {number}" for number in range(6_000)]  # 30 M tokens
PATIENCE = Patience(poll_s=30.0, poll_max_s=300.0, listing_delay_s=60.0, claim_ttl_s=900.0)
SAMPLE_S = 10.0


class LateProvider(Provider):
    """Batches take 10 to 60 minutes, and count for 1 to 10 minutes after their end."""

    def __init__(self, virtual: VirtualClock, seed: int) -> None:
        super().__init__(virtual.time)
        self.virtual = virtual
        self.chance = random.Random(seed)
        self.max_enqueued_tokens = LIMIT
        self.tokens_of = lambda _text: TOKENS
        self.counts_until: dict[int, float] = {}  # by life
        self.samples: list[tuple[float, int]] = []
        self.accepted: list[float] = []
        self.refusals: list[tuple[float, set[int]]] = []  # when, and which late releases counted then
        self._sample()

    def enqueued_tokens(self) -> int:
        return sum(life.tokens for life in self.lives.values() if life.ended is None) + sum(
            life.tokens for life in self.late()
        )

    def late(self) -> list[Life]:
        """Those that have ended and still count."""
        ended = [life for life in self.lives.values() if life.ended is not None and life.tokens]
        return [life for life in ended if self.time() < self.release(life)]

    def release(self, life: Life) -> float:
        assert life.ended is not None
        if id(life) not in self.counts_until:
            self.counts_until[id(life)] = life.ended + self.chance.uniform(60, 600)
        return self.counts_until[id(life)]

    def _fate(self, batch: dict[str, Any], life: Life) -> Fate:
        fate = super()._fate(batch, life)
        fate.validating_s = self.chance.uniform(5, 60)
        fate.takes_s = self.chance.uniform(600, 3600)
        if fate.fails:
            self.refusals.append((self.time(), {id(one) for one in self.late()}))
        else:
            self.accepted.append(self.time())
        return fate

    def _sample(self) -> None:
        self.live()
        self.samples.append((self.time(), self.enqueued_tokens()))
        self.virtual.at(SAMPLE_S, self._sample)

    def used(self) -> float:
        """Share of the limit that was in use, on average, as long as something was left to be sent."""
        taken = [tokens for when, tokens in self.samples if self.accepted[0] < when <= self.accepted[-1]]
        return sum(taken) / len(taken) / LIMIT

    def explained(self) -> bool:
        """Whether every refusal has a late release of its own."""
        free: set[int] = set().union(*(late for _, late in self.refusals))
        for _, late in self.refusals:
            if not late & free:
                return False
            free.discard(min(late & free, key=lambda one: self.counts_until[one]))
        return True


@dataclass
class Account1:
    """A tracker, its provider and virtual time."""

    folder: Path
    seed: int
    limit: int | None = LIMIT
    virtual: VirtualClock = field(default_factory=VirtualClock)

    def __post_init__(self) -> None:
        self.provider = LateProvider(self.virtual, self.seed)
        store = MemoryStore(self.virtual.time)
        clock = self.virtual.clock
        client = BatchClient("http://provider/v1", transport=InProcess(self.provider), clock=clock)
        cache = Cache(self.folder / "cache", store)
        account = Account(
            store=store, cache=cache, client=client, space=SPACE, store_id="store-1", line=REQUEST.line,
            price_of=lambda _shard: 0.0, patience=PATIENCE, maker=this_maker(), clock=clock,
        )  # fmt: skip
        packing = Packing(OPENAI, DIMENSIONS, "base64", 100, 50_000, None)
        quota = Quota(self.limit, None, clock=clock)
        self.tracker = Tracker(account, State(store, cache, SPACE), packing, quota, self.provider)

    def drain(self) -> None:
        tracker = self.tracker
        while self.plan() or tracker.state.open():
            tracker.advance()

    def plan(self) -> bool:
        tracker = self.tracker
        packing = Packing(OPENAI, DIMENSIONS, "base64", 100, 50_000, tracker.quota.shard_tokens)
        return bool(make_plan(tracker.state, rows, packing, 3, tracker.account.cache.scratch("shards")))


def rows() -> Iterable[Any]:
    columns = [
        pa.array(map(ids.text_id, TEXTS), ids.ID_TYPE),
        pa.array(TEXTS),
        pa.array([TOKENS] * len(TEXTS), pa.int32()),
    ]
    return [pa.record_batch(columns, schema=WANTED)]


@pytest.mark.parametrize("seed", range(2))
def test_the_quota_is_used_and_no_late_release_is_run_into_twice(tmp_path: Path, seed: int) -> None:
    world = Account1(tmp_path, seed)
    world.drain()
    provider = world.provider
    hours = (provider.accepted[-1] - provider.accepted[0]) / 3600
    taken, refused = len(provider.accepted), len(provider.refusals)
    print(f"used {provider.used():.1%} in {hours:.1f} h, {taken} batches taken, {refused} refused")  # noqa: T201 - -s
    assert len(world.tracker.vectors()) == len(TEXTS)
    assert set(provider.books.runs.values()) == {1}
    assert provider.used() >= 0.9
    assert provider.explained()
    assert max(tokens for _, tokens in provider.samples) <= LIMIT
