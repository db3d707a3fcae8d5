"""Asks every batch of a space that is out to end, and settles what they brought till then. Submits nothing."""

from collections.abc import Callable
from dataclasses import dataclass, field

from embedfill.clock import Clock
from embedfill.errors import UsageError
from embedfill.progress import Progress, Quiet, Stage
from embedfill.records import Outcome
from embedfill.tracker.collect import Collector, Settle
from embedfill.tracker.doubt import Doubts
from embedfill.tracker.recover import Recovery
from embedfill.tracker.state import ShardState, State, Status, store_time
from embedfill.tracker.submit import Account


@dataclass(frozen=True, slots=True)
class Options:
    """How to cancel. `wait` until the provider has ended every batch; `confirm` is told how many batches and texts are
    out; `at` is told each named point (crash tests kill there)."""

    wait: bool = True
    progress: Progress = field(default_factory=Quiet)
    confirm: Callable[["Cancelled"], bool] = lambda _: True
    at: Callable[[str], None] = lambda _: None
    clock: Clock = field(default_factory=Clock)


@dataclass(slots=True)
class Cancelled:
    """What became of what was in flight: of `batches` with `texts`, `ended` are settled and brought `vectors`. What
    they cost is None where a price is not known. `finished` is False while some have not ended."""

    batches: int = 0
    texts: int = 0
    ended: int = 0
    vectors: int = 0
    refused: int = 0
    prompt_tokens: int = 0
    cost_usd: float | None = 0.0
    finished: bool = True


@dataclass(slots=True)
class Cancellation:
    """Of one account's space; `state` is fresh."""

    account: Account
    state: State
    settle: Settle
    options: Options
    done: Cancelled = field(default_factory=Cancelled)
    asked: set[str] = field(default_factory=set)  # batches that were asked to end

    def run(self) -> Cancelled:
        Recovery(self.account).adopt_lost(self.state)
        names = [shard.shard.id for shard in self.state.out()]
        self.done.batches = len(names)
        self.done.texts = sum(self.state.shards[name].shard.texts for name in names)
        if not names:
            return self.done
        if not self.options.confirm(self.done):
            raise UsageError("nothing was cancelled", "status tells what is in flight")
        collector = Collector(self.account, self.settle, self.options.wait)
        with self.options.progress.stage("cancel", len(names), "batches") as stage:
            self._until_ended(names, collector, Doubts(self.account), stage)
        return self.done

    def _until_ended(self, names: list[str], collector: Collector, doubts: Doubts, stage: Stage) -> None:
        """Only what was out when it was asked for: another run may submit more all the while."""
        pause_s = self.account.patience.poll_s
        while True:
            out = [shard for shard in self.state.out() if shard.shard.id in names]
            self._round(out, collector, doubts)
            left = [shard for shard in out if shard.status in (Status.CLAIMED, Status.SUBMITTED)]
            stage.advance(len(out) - len(left))
            self.done.finished = not left
            if not left or not self.options.wait:
                return
            self.account.clock.sleep(pause_s)
            pause_s = min(pause_s * 1.5, self.account.patience.poll_max_s)
            self.state.refresh()

    def _round(self, out: list[ShardState], collector: Collector, doubts: Doubts) -> None:
        if claimed := [shard for shard in out if shard.status is Status.CLAIMED]:
            doubts.resolve(self.state, claimed, store_time(self.account.store))
        submitted = [shard for shard in out if shard.status is Status.SUBMITTED]
        for shard in submitted:
            self._ask(str(shard.batch_id))
        batches = collector.poll(submitted) if submitted else {}
        for shard in submitted:
            outcome = collector.collect(self.state, shard, batches[str(shard.batch_id)])
            if outcome is not None:
                self._add(outcome)

    def _ask(self, batch_id: str) -> None:
        if batch_id not in self.asked:
            self.options.at("before-cancel")
            self.account.client.cancel(batch_id)
            self.asked.add(batch_id)
            self.options.at("after-cancel")

    def _add(self, outcome: Outcome) -> None:
        done = self.done
        done.ended += 1
        done.vectors += outcome.vectors
        done.refused += outcome.refused
        done.prompt_tokens += outcome.prompt_tokens
        unknown = done.cost_usd is None or outcome.cost_usd is None
        done.cost_usd = None if unknown else (done.cost_usd or 0.0) + (outcome.cost_usd or 0.0)
