"""A store, a provider and trackers that are killed over them; what it came to, counted from the provider's books."""

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from embedfill import ids
from embedfill.config import load
from embedfill.errors import ProviderError
from embedfill.index.publish import current
from embedfill.leftovers import parts_of, snapshot_keys
from embedfill.loader.packs import read_pack
from embedfill.project import Project, open_project
from embedfill.prune import prune
from embedfill.retrieve import open_index
from embedfill.run import Summary, run
from embedfill.store import layout
from embedfill.store.cache import Cache, parse_json
from embedfill.store.local import LocalStore
from embedfill.tracker.state import State
from embedfill.tracker.sweeps import absent
from tests.chain_fixtures import Chain, documents
from tests.crash_worker import (
    PARKED,
    PRICE,
    PRUNE,
    SPACE,
    Fault,
    Job,
    Worker,
    open_client,
    start,
    whole_cancel,
    whole_prune,
    whole_run,
    work,
)
from tests.provider_fixtures import DIMENSIONS, Provider, _Server, vector
from tests.tracker_fixtures import texts_of

TEXTS = tuple(texts_of(23))  # three batches, the last one of a single request
CALLS = 3500  # that a tracker's code makes to embed them, about
_RUNS = 40  # that may end with an error of the provider's or at its billing limit
_EPOCH = 1_790_000_000.0  # when the provider's clock starts
_PATIENCE_S = 60.0  # for what must happen; only a test that fails waits so long
_BATCH = {"max_inputs": 10, "inputs_per_request": 5, "poll_s": 0.002, "listing_delay_s": 0.06}


@dataclass(frozen=True)
class Figures:
    """What a case came to. `planned` and `created` are batches; `unbilled` of the created ones came after their claim was
    given up, and failed without running.
    `twice` are texts that were billed more often than needed, `lost` those without a vector, `unequal` those whose
    vector is not just the one of a run without kills. `open` shards have no outcome; `spent` are tokens by our outcomes,
    `billed` by the provider's books."""

    kills: int
    planned: int
    created: int
    unbilled: int
    twice: int
    lost: int
    unequal: int
    open: int
    spent: int
    billed: int

    @property
    def as_promised(self) -> bool:
        exact = self.created - self.unbilled == self.planned and self.spent == self.billed
        return exact and not (self.twice or self.lost or self.unequal or self.open)


@dataclass
class World:
    """One store of one provider. `job` is what every tracker does here, unless told otherwise."""

    SPEED: ClassVar[float] = 1000.0  # of its clocks; that of whole runs is ours

    provider: Provider
    job: Job
    kills: int = 0
    processes: list[BaseProcess] = field(default_factory=list)

    def hurry(self) -> None:
        """For batches that take a day: a third of a second here."""
        self.job = replace(self.job, speed=300_000.0, poll_s=30.0, poll_max_s=3600.0, max_attempts=5)

    def start(self, fault: Fault | None = None, **changes: Any) -> BaseProcess:
        """A tracker as a process of its own."""
        self.processes.append(start(work, replace(self.job, fault=fault, **changes)))
        return self.processes[-1]

    def end(self, process: BaseProcess) -> int:
        """Waits for a process; its exit code, negative for the signal that ended it."""
        process.join(_PATIENCE_S)
        assert process.exitcode is not None, "a process hangs"
        self.kills += process.exitcode == -signal.SIGKILL
        return process.exitcode

    def die(self, point: str, nth: int = 1, **changes: Any) -> bool:
        """A process that kills itself there. False where it ended before."""
        code = self.end(self.start(Fault(point, nth), **changes))
        assert code in (0, 1, PARKED, -signal.SIGKILL), f"exit code {code}"
        return code == -signal.SIGKILL

    def die_anywhere(self, chance: Random, **changes: Any) -> bool:
        """Killed at any call of our code, if it gets there."""
        return self.die("call ", chance.randrange(1, CALLS), **changes)

    def sleep(self, point: str, nth: int = 1, **changes: Any) -> BaseProcess:
        """A process that has fallen asleep there, until `wake`."""
        process = self.start(Fault(point, nth, signal.SIGSTOP), **changes)
        wait_until(lambda: is_stopped(process))
        return process

    def wake(self, *processes: BaseProcess) -> list[int]:
        """Lets sleepers go on, and gives their exit codes."""
        for process in processes:
            os.kill(process.pid or 0, signal.SIGCONT)
        return [self.end(process) for process in processes]

    def kill(self, process: BaseProcess) -> None:
        process.kill()
        self.end(process)

    def finish(self, **changes: Any) -> None:
        """A tracker in this process that nobody kills: it ends well."""
        job = replace(self.job, **changes)
        with open_client(job) as client:
            for _ in range(_RUNS):
                worker = Worker(job, client)
                with suppress(ProviderError):  # a provider that misbehaves ends a run now and then: it is run again
                    worker.run()
                    if not worker.parked:
                        return
        raise AssertionError("it does not end")

    def other_cache(self) -> Path:
        return self.job.cache.with_name(f"cache-{time.monotonic_ns()}")

    def forget_cache(self) -> None:
        shutil.rmtree(self.job.cache, ignore_errors=True)

    @property
    def space(self) -> str:
        return SPACE

    def state(self) -> State:
        store = LocalStore(self.job.store)
        return State(store, Cache(self.job.cache, store), self.space).refresh()

    def figures(self) -> Figures:
        state, texts, books = self.state(), self.job.texts, self.provider.books
        found, known = vectors(state), {outcome.batch_id for outcome in state.outcomes.values()}
        wanted = {ids.text_id(text): vector(text).tobytes() for text in texts}
        spent = sum(outcome.prompt_tokens for outcome in state.outcomes.values())
        assert round(sum(outcome.cost_usd or 0.0 for outcome in state.outcomes.values()) / PRICE * 1e6) == spent
        return Figures(
            kills=self.kills,
            planned=sum(not shard.retired for shard in state.shards.values()),
            created=books.batches,
            unbilled=sum(one["status"] == "failed" for name, one in self.provider.batches.items() if name not in known),
            twice=sum(more > 0 for more in books.overpaid(books.runs).values()),
            lost=sum(text_id not in found for text_id in wanted),
            unequal=sum(found.get(text_id, {right}) != {right} for text_id, right in wanted.items()),
            open=len(state.open()),
            spent=spent,
            billed=books.tokens - books.unreported,
        )

    def check(self, **changes: Any) -> Figures:
        """Ends the work, and asserts that all is as promised."""
        self.finish(**changes)
        figures = self.figures()
        assert figures.as_promised, figures
        return figures


@dataclass
class RunWorld(World):
    """The same for whole runs, from Parquet files to the published index."""

    SPEED = 1.0

    @property
    def chain(self) -> Chain:
        return Chain(self.job.store.parent)

    def write(self, numbers: Sequence[int]) -> None:
        """The corpus: a document each."""
        rows = documents(numbers)
        self.job = replace(self.job, texts=tuple(row["text"] for row in rows))
        self.chain.write(rows)

    def configure(self, **tables: Any) -> Path:
        embedding = {
            "provider": "generic", "base_url": self.provider.url, "model": "tiny", "dimensions": DIMENSIONS,
            "price_per_million": PRICE,
        }  # fmt: skip
        self.chain.config(embedding=embedding, **{"batch": _BATCH, **tables})
        return self.chain.config_path

    def start(self, fault: Fault | None = None, **changes: Any) -> BaseProcess:
        assert not changes
        self.processes.append(start(whole_run, self.configure(), fault))
        return self.processes[-1]

    def prune(self) -> None:
        """One visit, in this process."""
        prune(load(self.configure()), PRUNE)

    def die_pruning(self, point: str) -> bool:
        self.processes.append(start(whole_prune, self.configure(), Fault(point)))
        return self.end(self.processes[-1]) == -signal.SIGKILL

    def cancel(self, fault: Fault | None = None) -> int:
        """Cancels what is out, in a process of its own."""
        self.processes.append(start(whole_cancel, self.configure(), fault))
        return self.end(self.processes[-1])

    def make_older(self) -> None:
        """All that the store holds was made a quarter of an hour earlier."""
        for path in (path for path in self.job.store.rglob("*") if path.is_file()):
            stat = path.stat()
            os.utime(path, (stat.st_atime, stat.st_mtime - 900))

    def finish(self, **changes: Any) -> None:
        """A run in this process that nobody kills: it publishes just what the corpus holds."""
        texts = len(self.job.texts)
        summary: Summary = run(load(self.configure(**changes)))
        assert (summary.documents, summary.texts, summary.rejected) == (texts, texts, 0)

    def check(self, **changes: Any) -> Figures:
        """Also that what is published by now, if anything, is whole: another run would mend it and say nothing."""
        self.configure(**changes)
        published = current(self.project.store, self.project.cache)
        if published.snapshot is not None:
            catalog = layout.catalog(published.snapshot.catalog)
            keys = {*snapshot_keys(published.name, published.snapshot), catalog}
            keys |= set(parts_of(catalog, parse_json(catalog, self.project.store.read(catalog))))
            assert not absent(self.project.store, keys)
            open_index(self.project, published.snapshot)
        return super().check(**changes)

    @property
    def project(self) -> Project:
        return open_project(load(self.chain.config_path))

    @property
    def space(self) -> str:
        return self.project.space.id


def vectors(state: State) -> dict[bytes, set[bytes]]:
    """The vectors of each text id, in all packs that outcomes name."""
    found: dict[bytes, set[bytes]] = {}
    for pack in state.packs():
        for text_ids, rows in read_pack(state.cache.path(pack)):
            for text_id, row in zip(ids.tolist(text_ids), rows, strict=True):
                found.setdefault(text_id, set()).add(row.tobytes())
    return found


def wait_until(condition: Callable[[], object]) -> None:
    """Waits for what must happen."""
    end = time.monotonic() + _PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.001)


def is_stopped(process: BaseProcess) -> bool:
    """Raises AssertionError for one that has ended instead."""
    state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
    assert state != "Z", "it ended before it fell asleep"
    return state == "T"


@contextmanager
def new_world(folder: Path, kind: type[World] = World) -> Iterator[World]:
    """A world in an empty folder. Every process of it is gone at the end."""
    job = Job(folder / "store", folder / "cache", "", TEXTS, speed=kind.SPEED)
    provider = Provider(lambda: _EPOCH + world.job.now() - start)
    server = _Server(provider)
    provider.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    world, start = kind(provider, replace(job, url=provider.url)), job.now()
    try:
        yield world
    finally:
        for process in world.processes:
            process.kill()
            process.join()
        server.shutdown()
        thread.join()
        server.server_close()
    assert not server.faults
