"""One job: prepared requests read, what is not answered yet sent through the Batch API, the results joined.

    spool    = read(input)                           what is asked, in order
    plan     = asked - answered - refused - in flight    what is missing, committed
    outcomes = advance(plan)                         uploaded, claimed, submitted, collected
    results  = join(spool, answers)                  one row for each, in the input's order

Every step starts from what the store says, so a job that was killed anywhere is simply run again.
"""

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from embedfill import ids
from embedfill.errors import BillingError, ProviderError, UsageError
from embedfill.ids import IdArray, IdSet
from embedfill.jobs.estimate import JobEstimate, estimate
from embedfill.jobs.held import note
from embedfill.jobs.jsonl import read_jsonl
from embedfill.jobs.open import OpenJob
from embedfill.jobs.results import Totals, write_results
from embedfill.jobs.settle import JobSettler
from embedfill.jobs.spool import Spool, SpoolWriter
from embedfill.jobs.table import read_table
from embedfill.progress import Progress, Quiet, Stage, Steps
from embedfill.records import Outcome
from embedfill.store import layout
from embedfill.tracker.advance import Advance
from embedfill.tracker.forgive import forgive
from embedfill.tracker.plan import make_plan, refused_in
from embedfill.tracker.quota import Quota
from embedfill.tracker.retire import retire
from embedfill.tracker.shards import shard_ids
from embedfill.tracker.state import ShardState, State, Status

Point = Callable[[str], None]
_SHOW_ROWS = 1000


@dataclass(frozen=True, slots=True)
class JobOptions:
    """How to run. `partial` writes what there is also where answers are missing; `retry` sends refused requests again.
    `confirm` is asked before a paid submission; `at` is told each named point of the write order."""

    wait: bool = True
    partial: bool = False
    retry: bool = False
    progress: Progress = field(default_factory=Quiet)
    confirm: Callable[[JobEstimate], bool] = lambda _: True
    at: Point = lambda _: None


@dataclass(slots=True)
class JobSummary:
    """What a job did: `totals` are those of the written results, None where nothing was written; the rest is of this
    run. `finished` is False while answers are missing; `parked` says why submissions stopped."""

    requests: int = 0
    answered: int = 0
    batches: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = 0.0
    totals: Totals | None = None
    finished: bool = True
    parked: BillingError | None = None


def run_job(job: OpenJob, inputs: list[Path], out: Path, options: JobOptions | None = None) -> JobSummary:
    """Brings every request of the input to its answer and writes them to `out`, when they are all there. Safe to
    interrupt and to run again at any time.

    Raises UsageError, ConfigError, ProviderError … of `embedfill.errors`; nothing is written then.
    """
    options = options or JobOptions()
    with job.cache.in_use(), _spooled(job, inputs, options.progress) as spool:
        return _Run(job, spool, out, options).run()


def estimate_job(job: OpenJob, inputs: list[Path], options: JobOptions | None = None) -> JobEstimate:
    """What `run_job` would send now. Sends nothing."""
    options = options or JobOptions()
    with job.cache.in_use(), _spooled(job, inputs, options.progress) as spool:
        return estimate(job, spool, job.state().refresh(), options.retry)


@contextmanager
def _spooled(job: OpenJob, inputs: list[Path], progress: Progress) -> Iterator[Spool]:
    path = job.cache.scratch("jobs") / f"{os.getpid()}-{secrets.token_hex(4)}.parquet"
    try:
        with progress.stage("read", None, "requests") as stage:
            media_tokens = job.config.assume_media_tokens or 0
            spool = SpoolWriter(path, job.endpoint, media_tokens).write(_sources(job, inputs, stage))
        yield spool
    finally:
        path.unlink(missing_ok=True)


def _sources(job: OpenJob, inputs: list[Path], stage: Stage) -> Iterator[tuple[Path, Iterator[Any]]]:
    most = job.profile.limits.file_bytes - 1000
    for path in inputs:
        items = read_table(path, job.prompt, most) if job.prompt else read_jsonl(path, job.endpoint, most)
        yield path, _counted(items, stage)


def _counted(items: Iterator[Any], stage: Stage) -> Iterator[Any]:
    number = 0
    for number, item in enumerate(items, 1):
        if number % _SHOW_ROWS == 0:
            stage.advance(_SHOW_ROWS)
        yield item
    stage.advance(number % _SHOW_ROWS)


@dataclass(slots=True)
class _Run:
    job: OpenJob
    spool: Spool
    out: Path
    options: JobOptions
    summary: JobSummary = field(default_factory=JobSummary)
    outcomes: list[Outcome] = field(default_factory=list)
    state: State = field(init=False)
    quota: Quota = field(init=False)
    asked: IdSet = field(init=False)

    def __post_init__(self) -> None:
        self.state = self.job.state()
        self.quota = self.job.quota()
        self.asked = IdSet(self.spool.row_ids[self.spool.asked])

    def run(self) -> JobSummary:
        self.summary.requests = int(self.spool.asked.sum())
        self.job.pricing.check_budget(self.spool, self.state.refresh())
        self._confirm()
        if self.options.retry:
            self._forgive()
        self._retire()
        note(self.job)
        try:
            self._answer()
        except ProviderError:
            if self.options.partial:
                self._write()
            raise
        finally:
            self._account()
        if self.summary.finished or self.options.partial:
            self._write()
        return self.summary

    def _answer(self) -> None:
        """Plans what is missing and carries it to its outcomes, until nothing is missing."""
        while self._plan() or self.state.open():
            self.options.at("after-plan")
            self._advance()
            if self.summary.parked or (not self.options.wait and self.state.open()):
                left = estimate(self.job, self.spool, self.state)
                self.summary.finished = not (left.requests or left.in_flight)
                return

    def _plan(self) -> bool:
        """One model a batch: providers refuse a file with two."""
        self.options.at("before-plan")
        attempts, scratch = self.job.config.batch.max_attempts, self.job.cache.scratch("shards")
        packing = self.job.packing(self.spool, self.quota)
        planned = [
            make_plan(self.state, partial(self.spool.wanted, model), packing, attempts, scratch)
            for model in range(len(self.spool.models))
        ]
        return any(planned)

    def _advance(self) -> None:
        job, options = self.job, self.options
        settle = JobSettler(job.store, job.cache, job.space, job.pricing, options.at)
        with job.client() as client:
            advance = Advance(job.account(client, options.at), self.state, settle, self.quota, options.progress.note)
            requests = sum(shard.shard.texts for shard in self.state.open())
            with options.progress.stage("answer", requests, "requests") as stage:
                done = advance.run(options.wait, Steps(stage).see)
        self.outcomes += done.outcomes
        self.summary.answered += sum(self._answered_by(outcome) for outcome in done.outcomes)
        self.summary.batches += done.submitted
        self.summary.parked = done.parked

    def _answered_by(self, outcome: Outcome) -> int:
        """How many requests of this input: a store may hold others."""
        found = [self.job.cache.read(layout.pack_ids(pack)) for pack in outcome.packs]
        return sum(int(self.asked.has(np.frombuffer(data, "S16")).sum()) for data in found)

    def _retire(self) -> None:
        """Takes back what an earlier run planned, did not submit, and nobody asks for any more: an edited input must
        not be paid for twice."""
        planned = [shard for shard in self.state.open() if shard.status is Status.PLANNED]
        unwanted = [shard for shard in planned if not self.asked.has(self._rows_of(shard)).all()]
        if unwanted:
            with self.job.client() as client:
                retire(self.job.account(client, self.options.at), self.state, unwanted)

    def _rows_of(self, shard: ShardState) -> IdArray:
        return shard_ids(self.job.cache.path(shard.shard.key))[0]

    def _forgive(self) -> None:
        """Takes back the refusals of this input's requests, so that they go out once more."""
        refused = refused_in(self.state, self.job.config.batch.max_attempts)
        names = ids.array(sorted(refused.rejected))
        mine = self.asked.has(names)
        forgive(self.state, {name: refused.counts[name] for name in ids.tolist(names[mine])})

    def _confirm(self) -> None:
        expected = estimate(self.job, self.spool, self.state, self.options.retry)
        if self.job.paid and expected.requests and not self.options.confirm(expected):
            raise UsageError("nothing was submitted", "nothing is lost: run it again when it suits")

    def _account(self) -> None:
        """What this run's batches brought and cost."""
        summary, outcomes = self.summary, self.outcomes
        costs = [outcome.cost_usd for outcome in outcomes]
        summary.batches = max(summary.batches, len(outcomes))
        summary.prompt_tokens = sum(outcome.prompt_tokens for outcome in outcomes)
        summary.completion_tokens = sum(outcome.completion_tokens for outcome in outcomes)
        summary.cost_usd = None if None in costs else sum((cost for cost in costs if cost is not None), 0.0)

    def _write(self) -> None:
        attempts = self.job.config.batch.max_attempts
        with self.options.progress.stage("results", len(self.spool), "rows") as stage:
            self.summary.totals = write_results(self.spool, self.state, self.out, attempts, self.job.prompt)
            stage.advance(self.summary.totals.rows)
