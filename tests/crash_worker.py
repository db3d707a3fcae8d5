"""The processes that are killed: a tracker, or a whole run, that sends itself a signal at a point of its work.

Forked from a server that has imported everything, so that one starts in some 15 ms.
"""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

import httpx

from embedfill.batchapi.limits import OPENAI
from embedfill.batchapi.lines import EmbeddingsRequest
from embedfill.batchapi.prices import cost_usd
from embedfill.cancel import Options as CancelOptions
from embedfill.cancel import cancel
from embedfill.clock import Clock
from embedfill.config import load
from embedfill.errors import StoreError, WorldError
from embedfill.loader.settle import Settler
from embedfill.providers.client import BatchClient
from embedfill.providers.profiles import Patience
from embedfill.prune import Options as PruneOptions
from embedfill.prune import prune
from embedfill.records import Shard
from embedfill.run import Options, run
from embedfill.store import layout
from embedfill.store.cache import Cache
from embedfill.store.local import LocalStore
from embedfill.tracker.advance import Advance
from embedfill.tracker.maker import this_maker
from embedfill.tracker.plan import make_plan
from embedfill.tracker.quota import Quota
from embedfill.tracker.shards import Packing
from embedfill.tracker.state import State
from embedfill.tracker.submit import Account
from tests.provider_fixtures import DIMENSIONS
from tests.tracker_fixtures import wanted

SPACE = "space"
PRICE = 1000.0  # USD per million tokens: a text of one token costs 0.001
PRUNE = PruneOptions(grace_s=60.0, keep=1)
PARKED = 5
LOST_ANSWER = 0  # instead of a signal
_ROUNDS = 40
# Imported once by the server instead of in every process: this module, and what is imported only at first use.
_PRELOADED = [
    "pytest",
    __name__,
    "tests.engine_crash_preload",
    "httpcore",
    "anyio",
    "numpy.ma",
    "pyarrow.dataset",
    "dateutil.relativedelta",
]


@dataclass(frozen=True)
class Fault:
    """A signal that the process sends itself at the `nth` passing of `point`: a named point of the write order;
    "call PART", a call that our code below embedfill/PART makes; "creating KIND" and "created KIND", right before and
    after the store makes an object of that kind. LOST_ANSWER: it is made, and StoreError is raised all the same."""

    point: str
    nth: int = 1
    signal: int = signal.SIGKILL


@dataclass(frozen=True)
class Job:
    """What one process does: plans `texts` in the store and carries them to their outcomes. `host` names another
    machine, whose processes nobody here can see. Times are seconds of a clock that runs `speed` times as fast as ours,
    but for `claim_ttl_s`: the store has our clock."""

    store: Path
    cache: Path
    url: str
    texts: tuple[str, ...]
    fault: Fault | None = None
    host: str = ""
    inputs_per_request: int = 5
    max_inputs: int = 10
    max_attempts: int = 3
    budget_usd: float | None = None
    max_enqueued_tokens: int | None = None
    poll_s: float = 2.0
    poll_max_s: float = 10.0
    listing_delay_s: float = 60.0
    claim_ttl_s: float = 60.0
    wait: bool = True
    speed: float = 1000.0

    @property
    def patience(self) -> Patience:
        return Patience(self.poll_s, self.poll_max_s, self.listing_delay_s, self.claim_ttl_s)

    @property
    def clock(self) -> Clock:
        return Clock(self.now, lambda seconds: time.sleep(seconds / self.speed))

    def now(self) -> float:
        """The same in every process of this machine."""
        return time.monotonic() * self.speed


@dataclass
class Trap:
    """Counts the passings of the fault's point, and springs at the right one."""

    fault: Fault | None
    passed: int = 0

    def at(self, point: str) -> None:
        if self.fault is None or point != self.fault.point:
            return
        self.passed += 1
        if self.passed == self.fault.nth:
            self.spring()

    def spring(self) -> None:
        assert self.fault is not None
        if self.fault.signal == LOST_ANSWER:
            raise StoreError(f"no answer at {self.fault.point}")
        os.kill(os.getpid(), self.fault.signal)

    def watch(self) -> None:
        """Counts calls, where that is what the fault waits for."""
        kind, _, part = self.fault.point.partition(" ") if self.fault else ("", "", "")
        if kind != "call":
            return
        source = f"{os.sep}embedfill{os.sep}{part}"

        def called(frame: FrameType, event: str, _argument: Any) -> None:
            if event in ("call", "c_call") and source in frame.f_code.co_filename:
                self.at(f"call {part}")

        sys.setprofile(called)


class ForgetfulStore(LocalStore):
    """A directory whose answer to a `create` may be lost: the object is there all the same."""

    def __init__(self, root: Path, trap: Trap) -> None:
        super().__init__(root)
        self.trap = trap

    def create(self, key: str, data: bytes) -> bool:
        kind = key.partition("/")[0]
        self.trap.at(f"creating {kind}")
        made = super().create(key, data)
        self.trap.at(f"created {kind}")
        return made


@dataclass
class Worker:
    """A tracker as a job wants it."""

    job: Job
    client: BatchClient
    trap: Trap = field(default_factory=lambda: Trap(None))
    parked: bool = False

    def __post_init__(self) -> None:
        self.store = ForgetfulStore(self.job.store, self.trap)
        self.store.create(layout.STORE, b"{}")
        self.cache = Cache(self.job.cache, self.store)
        self.state = State(self.store, self.cache, SPACE)
        self.quota = Quota(self.job.max_enqueued_tokens, self.job.budget_usd, clock=self.job.clock)

    def run(self) -> None:
        """Plans and advances until nothing is missing, or the budget is reached."""
        for _ in range(_ROUNDS):
            self.trap.at("before-plan")
            planned = self.plan()
            self.trap.at("after-plan")
            if not planned and not self.state.open():
                return
            advance = Advance(self.account(), self.state, self.settler(), self.quota)
            self.parked = advance.run(self.job.wait).parked is not None
            if self.parked or not self.job.wait:
                return
        raise AssertionError(f"still missing after {_ROUNDS} plans")

    def plan(self) -> list[Shard]:
        job = self.job
        packing = Packing(
            OPENAI, DIMENSIONS, "base64", job.inputs_per_request, job.max_inputs, self.quota.shard_tokens, "tiny"
        )
        return make_plan(self.state, wanted(job.texts), packing, job.max_attempts, self.cache.scratch("shards"))

    def account(self) -> Account:
        maker = replace(this_maker(), boot=self.job.host) if self.job.host else this_maker()
        return Account(
            store=self.store, cache=self.cache, client=self.client, space=SPACE, store_id="store-1",
            line=EmbeddingsRequest("tiny", "base64", DIMENSIONS).line, price_of=price_of, patience=self.job.patience,
            maker=maker, clock=self.job.clock, at=self.trap.at,
        )  # fmt: skip

    def settler(self) -> Settler:
        return Settler(self.store, self.cache, SPACE, DIMENSIONS, PRICE, self.trap.at)


def price_of(shard: Shard) -> float | None:
    return cost_usd(shard.tokens, PRICE)


def open_client(job: Job) -> BatchClient:
    """Without the certificates, which take longer to load than all else."""
    return BatchClient(job.url, transport=httpx.HTTPTransport(verify=False), clock=job.clock)


def work(job: Job) -> None:
    """A tracker's whole life. Exit code 5: the budget is reached, or the provider's limit. 1: an error of the world's."""
    trap = Trap(job.fault)
    with open_client(job) as client:
        worker = Worker(job, client, trap)
        trap.watch()
        try:
            worker.run()
        except WorldError:
            sys.exit(1)
        finally:
            sys.setprofile(None)
    if worker.parked:
        sys.exit(PARKED)


def whole_run(config: Path, fault: Fault | None) -> None:
    """`embedfill run`, as a library."""
    trap = Trap(fault)
    trap.watch()
    run(load(config), Options(at=trap.at))
    sys.setprofile(None)


def whole_prune(config: Path, fault: Fault) -> None:
    """`embedfill prune`, as a library."""
    prune(load(config), replace(PRUNE, at=Trap(fault).at))


def whole_cancel(config: Path, fault: Fault | None) -> None:
    """`embedfill cancel`, as a library."""
    cancel(load(config), CancelOptions(at=Trap(fault).at))


def start(target: Callable[..., None], *arguments: Any) -> BaseProcess:
    """`target` in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    process = context.Process(target=target, args=arguments)
    process.start()
    return process
