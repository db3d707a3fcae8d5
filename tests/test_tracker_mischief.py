"""The tracker against everything that a provider does wrong: the packs hold what was wanted, and nothing is paid twice.

Every kind of mischief by itself, then all of them together by seed, then any sequence of behaviours that ends well.
`MISCHIEF_SEEDS=5000 pytest tests/test_tracker_mischief.py -k seeds` runs that many seeds instead of 100.
"""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedfill import ids
from embedfill.batchapi.limits import OPENAI
from embedfill.errors import ProviderError
from embedfill.providers.client import BatchClient
from embedfill.providers.profiles import Patience
from embedfill.store.base import Store
from embedfill.store.cache import Cache
from embedfill.store.local import LocalStore
from embedfill.store.memory import MemoryStore
from embedfill.tracker.maker import this_maker
from embedfill.tracker.plan import WANTED, make_plan, refused_in
from embedfill.tracker.quota import Quota
from embedfill.tracker.shards import Packing
from embedfill.tracker.state import State
from embedfill.tracker.submit import Account
from tests.fate_fixtures import DIMENSIONS, vector
from tests.mischief_fixtures import (
    EVERYTHING,
    FATES,
    FILES,
    LIMIT,
    LINES,
    REQUESTS,
    SLOW,
    SPOILING,
    SUSPECT,
    Drawn,
    Mischief,
    only,
)
from tests.provider_fixtures import InProcess, Provider
from tests.tracker_fixtures import PRICE, REQUEST, SPACE, Tracker, price_of
from tests.virtual_fixtures import VirtualClock

SEEDS = int(os.environ.get("MISCHIEF_SEEDS", "100"))
CHUNK = 10  # seeds in one test
PATIENCE = Patience(poll_s=30.0, poll_max_s=3600.0, listing_delay_s=300.0, claim_ttl_s=900.0, lost_s=2 * 86_400.0)
LATE_S = 200.0  # how long the provider may hide something, at most
LOST_S = 20 * 3600.0  # and a batch or a file that it gave before
TEXTS = [f"text number {number}" + "." * (number % 4) for number in range(24)]
MAX_ATTEMPTS = 5
RUNS = 60  # that may end with an error of the provider's, before a test gives up


def tokens_of(text: str) -> int:
    return 1 + len(text) % 5


def wanted(texts: list[str]) -> Any:
    columns = [
        pa.array(map(ids.text_id, texts), ids.ID_TYPE),
        pa.array(texts),
        pa.array(map(tokens_of, texts), pa.int32()),
    ]
    return lambda: [pa.record_batch(columns, schema=WANTED)]


@dataclass
class World:
    """A tracker, a provider that misbehaves, and virtual time. `runs` counts the runs that it took, `parked` those
    that ended at a billing limit."""

    tracker: Tracker
    provider: Provider
    clock: VirtualClock
    runs: int = 0
    parked: int = 0

    def drain(self, texts: list[str]) -> None:
        """Runs until nothing is missing. A run that gives up is started again, as a user or cron would."""
        while self.runs < RUNS:
            self.runs += 1
            try:
                if self._run(texts):
                    return
            except ProviderError as error:
                assert error.message
            self.clock.sleep(120.0)
            self.tracker = self.tracker.again()
        raise AssertionError(f"still missing after {RUNS} runs: {self.tracker.state.open()}")

    def _run(self, texts: list[str]) -> bool:
        tracker = self.tracker
        while True:
            scratch = tracker.account.cache.scratch("shards")
            packing = replace(tracker.packing, shard_tokens=tracker.quota.shard_tokens)
            planned = make_plan(tracker.state, wanted(texts), packing, MAX_ATTEMPTS, scratch)
            if not planned and not tracker.state.open():
                return True
            if tracker.advance().parked:
                self.parked += 1
                return False

    def check(self, texts: list[str], refused: set[str] = frozenset()) -> None:  # type: ignore[assignment]
        """Rows, batches and money."""
        state = self.tracker.again().state.refresh()
        assert state.open() == []
        good = [text for text in texts if text not in refused]
        assert self.tracker.vectors() == {ids.text_id(text): [vector(text).tolist()] for text in good}
        rejected = refused_in(state, MAX_ATTEMPTS).rejected
        assert rejected.keys() == {ids.text_id(text) for text in refused}
        self._check_batches(state)
        self._check_money(state, good)

    def _check_batches(self, state: State) -> None:
        made = [self.provider.label(batch) for batch in self.provider.batches.values()]
        assert len(made) == len(set(made))
        assert {outcome.batch_id for outcome in state.outcomes.values()} == set(self.provider.batches)
        assert len(state.outcomes) == len(made)

    def _check_money(self, state: State, good: list[str]) -> None:
        books = self.provider.books
        assert books.overpaid(good) == {}
        told = sum(outcome.prompt_tokens for outcome in state.outcomes.values())
        assert told == books.tokens - books.unreported
        assert state.spent_usd() == pytest.approx(told * PRICE / 1e6)


@contextmanager
def world(
    folder: Path, clock: VirtualClock, provider: Provider, store: Store | None = None, tidy: bool = False
) -> Iterator[World]:
    """Without a URL of its own the provider is asked without a socket: that is ten times as fast."""
    provider.tokens_of, provider.time = tokens_of, clock.time
    # A directory keeps the real time, by which nothing gets old here.
    patience = replace(PATIENCE, lost_s=0.0) if store else PATIENCE
    store = store or MemoryStore(clock.time)
    cache = Cache(folder / "cache", store)
    transport = None if provider.url else InProcess(provider)
    with BatchClient(provider.url or "http://127.0.0.1:9/v1", transport=transport, clock=clock.clock) as client:
        account = Account(
            store=store, cache=cache, client=client, space=SPACE, store_id="store-1", line=REQUEST.line,
            price_of=price_of, patience=patience, maker=this_maker(), clock=clock.clock, tidy=tidy,
        )  # fmt: skip
        packing = Packing(OPENAI, DIMENSIONS, "base64", inputs_per_request=3, max_inputs=9, shard_tokens=None)
        tracker = Tracker(account, State(store, cache, SPACE), packing, Quota(None, None, clock=clock.clock), provider)
        yield World(tracker, provider, clock)


# ---------------------------------------------------------------------------------------------------------------------
# One kind at a time

MET = [kind for kind in EVERYTHING if not kind.startswith(("cancel.", "files.", "embeddings."))]


@pytest.mark.parametrize("kind", MET)
def test_each_kind_of_mischief(tmp_path: Path, virtual: VirtualClock, kind: str) -> None:
    texts = TEXTS[:9] if kind.startswith("poll.") else TEXTS  # few batches are asked for one by one, many by pages
    mischief = only(kind, late_s=LATE_S, lost_s=LOST_S)
    with world(tmp_path, virtual, mischief.attach(Provider()), tidy=kind.startswith("delete.")) as made:
        made.drain(texts)
        made.check(texts)
    assert mischief.done[kind]
    bound = {"done_drop": 0, **dict.fromkeys(SPOILING, LIMIT), **dict.fromkeys(SUSPECT, LIMIT), "no_output": LIMIT}
    most = bound.get(kind.partition(".")[2], 0)
    assert sum(made.provider.books.in_vain.values()) <= most * len(texts)


ANOMALIES = {
    "data_short": "wrong_count", "data_long": "wrong_count", "data_null": "wrong_count",
    "index_from_one": "wrong_index", "index_twice": "wrong_index",
    "nan": "bad_vector", "infinite": "bad_vector", "zeros": "bad_vector", "null": "bad_vector",
    "no_base64": "bad_vector", "odd_bytes": "bad_vector",
    "id_null": "foreign_custom_id", "id_foreign": "foreign_custom_id", "id_unknown": "foreign_custom_id",
    "line_cut": "not_json", "dimensions": "wrong_dimensions", "dimensions_more": "wrong_dimensions",
    "both_null": "absent", "status_zero": "http_0", "never_ran": "something_new",
    "line_408": "http_408", "line_409": "http_409", "line_429": "rate_limit_exceeded", "line_500": "http_500",
    "line_503": "server_overloaded", "repeated": "repeated_line", "repeated_otherwise": "conflicting_line",
    "foreign_too": "foreign_custom_id",
}  # fmt: skip
VISIBLE = {"usage_differs", "counts_differ"}


@pytest.mark.parametrize("kind", LINES)
def test_what_was_odd_about_a_line_is_counted(tmp_path: Path, virtual: VirtualClock, kind: str) -> None:
    """And only what says something of a text costs it a try."""
    with world(tmp_path, virtual, only(f"line.{kind}", limit=1).attach(Provider())) as made:
        made.drain(TEXTS[:3])
        made.check(TEXTS[:3])
        state = made.tracker.state
        first = min(state.outcomes.values(), key=lambda outcome: int(str(outcome.batch_id).partition("-")[2]))
        odd = {name for name in first.anomalies if name not in VISIBLE}
        assert odd == ({ANOMALIES[kind]} if kind in ANOMALIES else set())
        tried = {refusal.text_id for refusal in state.refusals()}
        assert bool(tried) == (kind in SUSPECT)


@pytest.mark.parametrize("kind", [name for name in EVERYTHING if name.startswith("embeddings.")])
def test_the_synchronous_endpoint(virtual: VirtualClock, kind: str) -> None:
    provider = only(kind).attach(Provider(virtual.time))
    with BatchClient("http://127.0.0.1:9/v1", transport=InProcess(provider), clock=virtual.clock) as client:
        assert client.embed(TEXTS[:5], "tiny", DIMENSIONS).tolist() == [vector(text).tolist() for text in TEXTS[:5]]


@pytest.mark.parametrize("kind", [name for name in EVERYTHING if name.startswith(("cancel.", "files."))])
def test_what_the_tracker_seldom_asks(virtual: VirtualClock, kind: str) -> None:
    mischief = only(kind)
    provider = mischief.attach(Provider(virtual.time))
    provider.hold = True
    with BatchClient("http://127.0.0.1:9/v1", transport=InProcess(provider), clock=virtual.clock) as client:
        file_id = provider.add_file(b'{"custom_id":"0","body":{"input":["a"]}}\n')
        batch = client.create_batch(file_id, {})
        for _ in range(LIMIT + 1):  # a 409 says that it has ended, garbage nothing
            client.cancel(batch.id)
        assert [file.id for file in client.files()] == [file_id]
        ended = client.batch(batch.id)
    assert ended is not None and ended.status == "cancelled" and mischief.done[kind]
    assert provider.books.tokens == 0


# ---------------------------------------------------------------------------------------------------------------------
# All kinds together


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_seeds(tmp_path: Path, virtual: VirtualClock, first: int) -> None:
    for seed in range(first, min(first + CHUNK, SEEDS)):
        run_seed(tmp_path / str(seed), seed, VirtualClock(), Provider())


@pytest.mark.parametrize("seed", range(SEEDS, SEEDS + 4))
def test_seeds_over_http_and_a_directory(tmp_path: Path, virtual: VirtualClock, provider: Provider, seed: int) -> None:
    run_seed(tmp_path, seed, virtual, provider, LocalStore(tmp_path / "store"))


def run_seed(folder: Path, seed: int, clock: VirtualClock, provider: Provider, store: Store | None = None) -> None:
    chance = random.Random(seed)
    provider.refuses = set(chance.sample(TEXTS, chance.choice([0, 0, 1, 2])))
    mischief = Mischief(seed, rate=chance.choice([0.05, 0.15, 0.4]), late_s=LATE_S, lost_s=0.0 if store else LOST_S)
    with world(folder, clock, mischief.attach(provider), store, tidy=seed % 4 == 0) as made:
        made.drain(TEXTS)
        made.check(TEXTS, provider.refuses)


def test_a_seed_gives_the_same_run_again(tmp_path: Path, virtual: VirtualClock) -> None:
    asked = []
    for name in ("one", "two"):
        provider = Provider()
        run_seed(tmp_path / name, 8, VirtualClock(), provider)
        asked.append([(one.method, one.path) for one in provider.requests])
    assert asked[0] == asked[1] and len(asked[0]) > 20


# ---------------------------------------------------------------------------------------------------------------------
# Any sequence of behaviours that ends well


PLACES = {
    **{place: list(REQUESTS[place]) for place in ("upload", "create", "list", "poll", "stat", "content")},
    "batch": ["", *FATES, *SLOW],
    "line": ["", *LINES],
    "file": ["", *FILES],
}
LONGEST = {"batch": 8, "line": 15}


@settings(max_examples=30)
@given(
    st.fixed_dictionaries(
        {place: st.lists(st.sampled_from(kinds), max_size=LONGEST.get(place, 6)) for place, kinds in PLACES.items()}
    ),
    st.sets(st.sampled_from(TEXTS), max_size=3),
)
def test_any_sequence_of_behaviours_that_ends_well(
    tmp_path_factory: pytest.TempPathFactory, virtual: VirtualClock, drawn: dict[str, list[str]], refused: set[str]
) -> None:
    """Each request, batch, line and file meets the next of what was drawn for its like; then all goes well."""
    provider = Drawn(drawn, LATE_S).attach(Provider())
    provider.refuses = refused
    with world(tmp_path_factory.mktemp("drawn"), VirtualClock(), provider) as made:
        made.drain(TEXTS)
        made.check(TEXTS, refused)
