"""One run: the corpus read and chunked, what is missing embedded through the Batch API, indexed, and published.

    catalog   = scan(corpus)                          what is wanted
    plan      = wanted - have - rejected - in flight  what is missing, committed
    outcomes  = advance(plan)                         uploaded, claimed, submitted, collected
    snapshot  = assemble(catalog, packs)              indexed, recall measured
    published                                         searchable

Every step starts from what the store says, so a run that was killed anywhere is simply run again.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from embedfill.account import account_of, settler_of
from embedfill.catalog.live import load_live, wanted_texts
from embedfill.catalog.scan import Scanner
from embedfill.config import Config
from embedfill.errors import BillingError, MissingError, ProviderError, SearchIndexError, StoreError, UsageError
from embedfill.estimate import Estimate, estimate, rejected_texts, totals
from embedfill.executors.local import LocalExecutor
from embedfill.index.assemble import assemble
from embedfill.index.publish import Publication, content_of, current, publish, save
from embedfill.leftovers import catalog_keys, snapshot_keys
from embedfill.loader.settle import Settler
from embedfill.progress import Progress, Quiet, Steps
from embedfill.project import Project, open_project
from embedfill.providers.client import BatchClient
from embedfill.records import Catalog, Counts, Outcome, Snapshot
from embedfill.retrieve import open_index
from embedfill.tracker.advance import Advance
from embedfill.tracker.elsewhere import Elsewhere
from embedfill.tracker.forgive import forgiven_keys
from embedfill.tracker.plan import make_plan, refused_in
from embedfill.tracker.quota import Quota
from embedfill.tracker.recover import Recovery
from embedfill.tracker.state import State, Status
from embedfill.tracker.submit import Account
from embedfill.tracker.sweeps import Pins
from embedfill.tracker.synchronous import SyncTail

Point = Callable[[str], None]
_PUBLISH_TRIES = 5


@dataclass(frozen=True, slots=True)
class Options:
    """How to run. `confirm` is asked before the first paid submission; `at` is told each named point of the write
    order (crash tests kill there). Up to `sync_tail` missing texts go through the synchronous endpoint instead of a
    batch, at its own price."""

    wait: bool = True
    sync_tail: int = 0
    progress: Progress = field(default_factory=Quiet)
    confirm: Callable[[Estimate], bool] = lambda _: True
    at: Point = lambda _: None


@dataclass(slots=True)
class Summary:
    """What a run did, and what is published now. `finished` is False while texts lack vectors: `in_flight` are out at
    the provider, `planned` are still to be sent; `parked` says why submissions stopped at the budget or a billing
    limit."""

    snapshot: str = ""
    documents: int = 0
    chunks: int = 0
    texts: int = 0
    rejected: int = 0
    embedded: int = 0
    reused: int = 0
    batches: int = 0
    prompt_tokens: int = 0
    cost_usd: float | None = 0.0
    index: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    planned: int = 0
    in_flight: int = 0
    finished: bool = True
    parked: BillingError | None = None


def run(config: Config, options: Options | None = None) -> Summary:
    """Brings the published index in step with the corpus. Safe to interrupt and to run again at any time.

    Raises CorpusError, ConfigError, ProviderError … of `embedfill.errors`; nothing is published then.
    """
    run_ = _Run(open_project(config), options or Options())
    with run_.project.cache.in_use():
        run_.tell_elsewhere()
        for _ in range(_PUBLISH_TRIES):
            if run_.once():
                run_.release()
                return run_.summary
    raise StoreError(
        f"other runs published {_PUBLISH_TRIES} times while this one was at it", "run it again when they are done"
    )


@dataclass(slots=True)
class _Run:
    project: Project
    options: Options
    summary: Summary = field(default_factory=Summary)
    outcomes: list[Outcome] = field(default_factory=list)
    submitted: int = 0
    quota: Quota = field(init=False)
    pins: Pins = field(init=False)

    def __post_init__(self) -> None:
        self.quota = self.project.quota()
        self.pins = Pins(self.project.store)

    def tell_elsewhere(self) -> None:
        """Of paid batches that this configuration does not collect: the model was another when they were sent."""
        project = self.project
        if out := len(Elsewhere(project.store, project.cache, project.space.id).refresh().out()):
            said = "1 batch is" if out == 1 else f"{out:,} batches are"
            self.options.progress.note(
                f"{said} out of another configuration of this store: run with it to collect that"
            )

    def once(self) -> bool:
        """One pass. False where another run published meanwhile: everything is to be computed anew."""
        project = self.project
        with self._timed("scan"):
            name, catalog = self._scan()
        state = project.state().refresh()
        content = self._content(name, state)
        published = self._published(content)
        if not self._is_made_of(published, content) or state.open():
            with self._timed("embed"):
                self._embed(catalog, state)
        self._account()
        if not self.summary.finished:
            self._describe(published)
            return True
        return self._publish(name, catalog, state, published)

    def release(self) -> None:
        """What is published needs no pins; while batches are out the catalog has nothing else to hold it."""
        if self.summary.finished and not self.summary.parked:
            self.pins.release()

    def _scan(self) -> tuple[str, Catalog]:
        """The catalog, pinned. Where prune took a part of it meanwhile it is made anew."""
        anew = False
        for _ in range(_PUBLISH_TRIES):
            try:
                name, catalog = scan(self.project, self.options.progress, anew)
                if not self.pins.hold(catalog_keys(name, catalog)):
                    return name, catalog
            except MissingError as error:
                if anew:
                    raise
                self.options.progress.note(f"{error.message}: the corpus is read anew")
            anew = True
        raise StoreError(
            "what is read of the corpus disappears from the store at once", "is something else pruning it?"
        )

    def _published(self, content: str) -> Publication:
        """The newest publication. One of just this content whose index cannot be opened counts as none: it is built
        again, from vectors that are there."""
        published = current(self.project.store, self.project.cache)
        if self._is_made_of(published, content) and not self._is_intact(published):
            return replace(published, snapshot=None)
        return published

    @staticmethod
    def _is_made_of(published: Publication, content: str) -> bool:
        return published.snapshot is not None and published.snapshot.content == content

    def _is_intact(self, published: Publication) -> bool:
        """Whether the published index can be opened; drops the copies of one that cannot."""
        if published.snapshot is None:
            return True
        try:
            open_index(self.project, published.snapshot)
        except (SearchIndexError, MissingError) as error:
            for key in published.snapshot.index.files.values():
                self.project.cache.forget(key)
            self.options.progress.note(f"the published index is damaged and is built again: {error.message}")
            return False
        return True

    def _content(self, catalog: str, state: State) -> str:
        project = self.project
        attempts = project.config.batch.max_attempts
        query = "\n".join([f"{project.config.embedding.query_template}\n{attempts}", *forgiven_keys(state)])
        return content_of(catalog, state.packs(), project.space, project.config.index, query)

    def _embed(self, catalog: Catalog, state: State) -> None:
        """Plans what is missing and carries it to its outcomes, until nothing is missing."""
        while self._plan(catalog, state) or state.open():
            self.options.at("after-plan")
            self.project.check_budget(state, bool(self.options.sync_tail))
            with self.project.client() as client:
                self._advance(client, catalog, state)
            if self.summary.parked or (not self.options.wait and state.open()):
                self._leave(state)
                return

    def _leave(self, state: State) -> None:
        """Notes what is still to do."""
        summary = self.summary
        summary.in_flight = sum(shard.shard.texts for shard in state.out())
        summary.planned = sum(shard.shard.texts for shard in state.open()) - summary.in_flight
        summary.finished = False

    def _plan(self, catalog: Catalog, state: State) -> bool:
        project = self.project
        if project.paid and not any(shard.attempt for shard in state.shards.values()):
            self._confirm(catalog, state)
        live = load_live(project.cache, catalog.documents)
        versions = np.unique(live.versions)
        self.options.at("before-plan")
        packing, attempts = project.packing(self.quota), project.config.batch.max_attempts
        scratch = project.cache.scratch("shards")
        return bool(
            make_plan(state, lambda: wanted_texts(project.cache, catalog, versions), packing, attempts, scratch)
        )

    def _confirm(self, catalog: Catalog, state: State) -> None:
        expected = estimate(self.project, catalog, state)
        if expected.new and not self.options.confirm(expected):
            raise UsageError("nothing was submitted", "see the price with: embedfill plan CONFIG")

    def _advance(self, client: BatchClient, catalog: Catalog, state: State) -> None:
        """Runs the tracker's loop, with progress in texts."""
        at = self.options.at
        account, settle = account_of(self.project, client, at), settler_of(self.project, at)
        advance = Advance(account, state, settle, self.quota, self.options.progress.note)
        self._finish_tail(account, settle, state)
        texts = sum(shard.shard.texts for shard in state.open())
        with self.options.progress.stage("embed", texts, "texts") as stage:
            done = advance.run(self.options.wait, Steps(stage).see)
        self.outcomes += done.outcomes
        self.submitted += done.submitted
        self.summary.parked = done.parked

    def _finish_tail(self, account: Account, settle: Settler, state: State) -> None:
        """Where the user asked for it: what a lost batch already brings is never asked for again."""
        planned = [shard for shard in state.open() if shard.status is Status.PLANNED]
        if not planned or sum(shard.shard.texts for shard in planned) > self.options.sync_tail:
            return
        Recovery(account).adopt_lost(state)
        tail = SyncTail(account, settle, self.project.sync_price, self.project.config.batch.budget_usd)
        try:
            tail.finish(state, self.options.sync_tail)
        except (BillingError, ProviderError) as error:  # a batch costs less, and knows how to wait
            self.options.progress.note(f"the remainder goes out as a batch: {error.message}")
        finally:
            self.outcomes += tail.outcomes
        for outcome in tail.outcomes:
            self.quota.learn(outcome)

    def _publish(self, name: str, catalog: Catalog, state: State, published: Publication) -> bool:
        """Builds and publishes a snapshot, unless the current one is made of the same."""
        project = self.project
        state.refresh()
        content = self._content(name, state)
        if self._is_made_of(published, content):
            self._describe(published)
            return True
        with self._timed("index"):
            snapshot = self._snapshot(name, content, catalog, state)
        with self._timed("publish"):
            self.options.at("before-snapshot")
            snapshot_name = save(project.store, snapshot)
            if self.pins.hold(snapshot_keys(snapshot_name, snapshot) | catalog_keys(name, catalog)):
                return False  # prune took a part of it
            self.options.at("before-publication")
            if not publish(project.store, snapshot_name, published.number):
                return False
        self._describe(Publication(published.number + 1, snapshot_name, snapshot))
        return True

    def _snapshot(self, name: str, content: str, catalog: Catalog, state: State) -> Snapshot:
        project = self.project
        packs = tuple(state.packs())
        refusals = refused_in(state, project.config.batch.max_attempts)
        rejected = catalog.rejected
        if refusals.rejected:
            rejected += rejected_texts(totals(project, catalog).texts, refusals)
        with self.options.progress.stage("index", None, "rows") as stage:
            assembled = assemble(
                project.store, project.cache, catalog, packs, project.model.dimensions, project.config.index,
                stage.advance,
            )  # fmt: skip
        self.options.at("after-index")
        return Snapshot(
            content=content,
            catalog=name,
            space=project.space,
            packs=packs,
            index=assembled.manifest,
            counts=Counts(catalog.count, assembled.places, assembled.texts, rejected),
            template=project.chunking.template,
            query_template=project.config.embedding.query_template,
        )

    def _account(self) -> None:
        """What this run's batches brought and cost."""
        summary = self.summary
        costs = [outcome.cost_usd for outcome in self.outcomes]
        summary.embedded = sum(outcome.vectors for outcome in self.outcomes)
        summary.batches = max(self.submitted, len(self.outcomes))
        summary.prompt_tokens = sum(outcome.prompt_tokens for outcome in self.outcomes)
        summary.cost_usd = None if None in costs else sum((cost for cost in costs if cost is not None), 0.0)

    def _describe(self, published: Publication) -> None:
        """The published snapshot's totals; zeros where nothing has been published."""
        summary, snapshot = self.summary, published.snapshot
        if snapshot is None:
            return
        summary.snapshot = published.name
        counts, index = snapshot.counts, snapshot.index
        summary.documents, summary.chunks = counts.documents, counts.chunks
        summary.texts, summary.rejected = counts.texts, counts.rejected
        summary.reused = max(0, counts.texts - summary.embedded)
        summary.index = {
            "kind": index.kind, "rows": index.rows, "recall_at_10": index.recall_at_10, "bytes": index.bytes,
        }  # fmt: skip

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            self.summary.seconds[stage] = round(self.summary.seconds.get(stage, 0.0) + time.monotonic() - start, 3)


def scan(project: Project, progress: Progress, anew: bool = False) -> tuple[str, Catalog]:
    """The catalog of the corpus as it is now, and its name; chunks what is new. `anew` reads all of it."""
    published = current(project.store, project.cache).snapshot
    last = published.catalog if published else ""
    with LocalExecutor(project.config.executor.count) as executor:
        scanner = Scanner(
            project.config, project.corpus, project.chunking, project.store, project.cache, executor.map, progress, last,
            anew,
        )  # fmt: skip
        return scanner.run()
