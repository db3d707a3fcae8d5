"""A space in a store, a provider, and a tracker between them: what the tracker's tests work with."""

import itertools
import os
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from embedfill import ids
from embedfill.batchapi.limits import OPENAI
from embedfill.batchapi.lines import EmbeddingsRequest
from embedfill.batchapi.prices import cost_usd
from embedfill.loader.packs import read_pack
from embedfill.loader.settle import Settler
from embedfill.providers.client import BatchClient
from embedfill.providers.profiles import Patience
from embedfill.records import Claim, Maker, Shard
from embedfill.store import layout
from embedfill.store.base import Store
from embedfill.store.cache import Cache
from embedfill.store.local import LocalStore
from embedfill.store.memory import MemoryStore
from embedfill.tracker.advance import Advance, Advanced
from embedfill.tracker.maker import this_maker
from embedfill.tracker.plan import WANTED, make_plan
from embedfill.tracker.quota import Quota
from embedfill.tracker.shards import Packing
from embedfill.tracker.state import ShardState, State, parse_claim
from embedfill.tracker.submit import Account
from tests.provider_fixtures import DIMENSIONS, Provider

SPACE = "space"
PATIENCE = Patience(poll_s=0.002, poll_max_s=0.01, listing_delay_s=0.03, claim_ttl_s=60.0)
PRICE = 1000.0  # USD per million tokens: a text of one token costs 0.001
REQUEST = EmbeddingsRequest("tiny", "base64", DIMENSIONS)
_numbers = itertools.count()


@dataclass
class Tracker:
    """One run's view of a space. `again` gives another run's: own cache, own state, same store and provider."""

    account: Account
    state: State
    packing: Packing
    quota: Quota
    provider: Provider

    def again(self, folder: Path | None = None, **account: Any) -> "Tracker":
        cache = Cache(folder or self.account.cache.root.parent / f"cache-{next(_numbers)}", self.account.store)
        made = replace(self.account, cache=cache, **account)
        return Tracker(made, State(made.store, cache, SPACE), self.packing, replace(self.quota), self.provider)

    def plan(self, texts: Sequence[str], max_attempts: int = 3, **packing: Any) -> list[Shard]:
        scratch = self.account.cache.scratch("shards")
        packing = {"shard_tokens": self.quota.shard_tokens, **packing}
        return make_plan(self.state, wanted(texts), replace(self.packing, **packing), max_attempts, scratch)

    def planned(self, *texts: str) -> ShardState:
        """Plans these texts as one shard, and gives it."""
        (shard,) = self.plan(texts, inputs_per_request=100, max_inputs=100)
        return self.state.shards[shard.id]

    def advance(self, wait: bool = True) -> Advanced:
        return self.advancing().run(wait)

    def advancing(self) -> Advance:
        settler = Settler(self.account.store, self.account.cache, SPACE, DIMENSIONS, PRICE)
        return Advance(self.account, self.state, settler, self.quota)

    def embed(self, texts: Sequence[str], rounds: int = 10, **options: Any) -> None:
        """Plans and advances until nothing is missing."""
        for _ in range(rounds):
            if not self.plan(texts, **options) and not self.state.open():
                return
            self.advance()
        raise AssertionError(f"still missing after {rounds} plans")

    def vectors(self) -> dict[bytes, list[list[float]]]:
        """All vectors of each text id, in all packs."""
        found: dict[bytes, list[list[float]]] = {}
        for pack in State(self.account.store, self.account.cache, SPACE).refresh().packs():
            for text_ids, vectors in read_pack(self.account.cache.path(pack)):
                for text_id, vector in zip(ids.tolist(text_ids), vectors.tolist(), strict=True):
                    found.setdefault(text_id, []).append(vector)
        return found

    def keys(self, prefix: str) -> list[str]:
        return [entry.key for entry in self.account.store.list(prefix)]

    def claim(self, shard: ShardState, attempt: int = 1) -> Claim:
        return parse_claim(self.account.store.read(layout.claim(SPACE, shard.shard.id, attempt)))

    def reference(self, shard: ShardState, attempt: int = 1) -> str:
        return self.account.store.read(layout.batch(SPACE, shard.shard.id, attempt)).decode()


def wanted(texts: Iterable[str], at_once: int = 7) -> Callable[[], Iterator[Any]]:
    """What the catalog would give: record batches of the schema WANTED. Every text counts one token."""
    rows = list(texts)

    def batches() -> Iterator[Any]:
        for start in range(0, len(rows), at_once):
            part = rows[start : start + at_once]
            columns = [pa.array([ids.text_id(text) for text in part], ids.ID_TYPE), pa.array(part), [1] * len(part)]
            yield pa.record_batch([columns[0], columns[1], pa.array(columns[2], pa.int32())], schema=WANTED)

    return batches


def price_of(shard: Shard) -> float | None:
    return cost_usd(shard.tokens, PRICE)


def texts_of(count: int, start: int = 0) -> list[str]:
    return [f"text number {number}" for number in range(start, start + count)]


@pytest.fixture
def tracker(provider: Provider, client: BatchClient, tmp_path: Path, tracker_store: Store) -> Tracker:
    store, cache = tracker_store, Cache(tmp_path / "cache", tracker_store)
    account = Account(
        store=store, cache=cache, client=client, space=SPACE, store_id="store-1", line=REQUEST.line,
        price_of=price_of, patience=PATIENCE, maker=this_maker(),
    )  # fmt: skip
    packing = Packing(OPENAI, DIMENSIONS, "base64", inputs_per_request=5, max_inputs=10, shard_tokens=None)
    return Tracker(account, State(store, cache, SPACE), packing, Quota(None, None), provider)


@pytest.fixture(params=["memory", "directory"])
def tracker_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return MemoryStore() if request.param == "memory" else LocalStore(tmp_path / "store")


def dead_maker() -> Maker:
    """A process of this machine that is no more."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    return replace(this_maker(), pid=gone.pid)


def foreign_maker() -> Maker:
    """A process of another machine: whether it lives cannot be known."""
    return replace(this_maker(), boot="another-boot")


def make_older(store: Store, key: str, seconds: float) -> None:
    """Sets back the time that the store gave an object."""
    if isinstance(store, LocalStore):
        path = store.root / key
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - seconds))
    elif isinstance(store, MemoryStore):
        data, modified = store._objects[key]
        store._objects[key] = (data, modified - seconds)
