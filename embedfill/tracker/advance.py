"""Carries planned shards to their outcomes: one loop of submit, look, poll and collect over the derived state."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from embedfill.batchapi.models import Batch
from embedfill.errors import BillingError, ProviderError, RefusedError, UnreachableError
from embedfill.records import Outcome
from embedfill.tracker.collect import Collector, Settle
from embedfill.tracker.doubt import Doubts
from embedfill.tracker.quota import Quota
from embedfill.tracker.state import ShardState, State, Status, store_time
from embedfill.tracker.submit import Account, submit

_REFUSALS = 5  # refused POSTs in a row, before the run stops and says so
_OUTAGES = 10  # rounds in a row that the provider did not answer in, before the run stops and says so


@dataclass(slots=True)
class Advanced:
    """What a call of `advance` did. `parked` is set when the budget or the provider's billing stopped submissions."""

    outcomes: list[Outcome] = field(default_factory=list)
    submitted: int = 0
    parked: BillingError | None = None


class Advance:
    """The tracker's loop over one account. `note` is told what a user should see."""

    def __init__(
        self, account: Account, state: State, settle: Settle, quota: Quota, note: Callable[[str], None] = lambda _: None
    ) -> None:
        self.account = account
        self.note = note
        self.state = state
        self.quota = quota
        self.collector = Collector(account, settle)
        self.doubts = Doubts(account)
        self.done = Advanced()
        self._outages = 0
        self._refusals = 0

    def run(self, wait: bool = True, progress: Callable[[int], None] = lambda _: None) -> Advanced:
        """Until every shard is settled or nothing more can be done; with `wait` False, one round. `progress` is told
        how many texts are done, of all that were open at the start, as far as the provider says."""
        pause_s = self.account.patience.poll_s
        while True:
            before = (self.done.submitted, len(self.done.outcomes))
            try:
                self.round(progress)
                self._outages = 0
                if not wait or self._finished():
                    return self.done
            except ProviderError as error:
                self._endure(error, wait)
            moved = before != (self.done.submitted, len(self.done.outcomes))
            pause_s = self.account.patience.poll_s if moved else min(pause_s * 1.5, self.account.patience.poll_max_s)
            self.account.clock.sleep(pause_s)

    def round(self, progress: Callable[[int], None]) -> None:
        """Looks into what is in doubt, polls and settles what has ended, submits what may go out. In this order: a
        provider that refuses what is new must not keep us from what is paid."""
        self.state.refresh()
        self._resolve()
        self._collect(progress)
        self._submit()

    def _endure(self, error: ProviderError, wait: bool) -> None:
        """A batch may take a day: an outage of minutes on the way is no reason to give up waiting."""
        out = any(shard.status in (Status.CLAIMED, Status.SUBMITTED) for shard in self.state.open())
        away = isinstance(error, UnreachableError) or (isinstance(error, RefusedError) and error.status >= 500)
        self._outages += 1
        if self._outages == 1:
            self.note(f"{error.message}; trying again")
        if not (away and wait and out) or self._outages >= _OUTAGES:
            raise error

    def _finished(self) -> bool:
        waiting = [shard for shard in self.state.open() if shard.status is not Status.PLANNED or not self.done.parked]
        return not waiting

    def _submit(self) -> None:
        for shard in self.state.open():
            if self.done.parked or shard.status is not Status.PLANNED or not self.quota.admits(self.state, shard.shard):
                continue
            try:
                self.quota.check_budget(self.state, shard.shard, self.account.price_of)
                self.done.submitted += submit(self.account, shard)
            except BillingError as error:
                self.done.parked = error
            except RefusedError as error:
                self._refused(error)
                return
            self._refusals = 0

    def _refused(self, error: RefusedError) -> None:
        """A refused POST made no batch. It is tried again in a later round where that can help: the provider was
        busy, or could not read the new file yet."""
        self._refusals += 1
        passing = error.retryable or "file" in error.message.lower()
        if not passing or self._refusals >= _REFUSALS:
            raise error
        self.quota.pause(error.retry_after_s or 0.0)

    def _resolve(self) -> None:
        claimed = [shard for shard in self.state.open() if shard.status is Status.CLAIMED]
        if claimed:
            self.doubts.resolve(self.state, claimed, store_time(self.account.store))

    def _collect(self, progress: Callable[[int], None]) -> None:
        submitted = [shard for shard in self.state.open() if shard.status is Status.SUBMITTED]
        if not submitted:
            return
        batches = self.collector.poll(submitted)
        progress(
            sum(outcome.texts for outcome in self.done.outcomes)
            + sum(_texts_done(shard, batches) for shard in submitted)
        )
        for shard in submitted:
            outcome = self.collector.collect(self.state, shard, batches[str(shard.batch_id)])
            if outcome is not None:
                self.done.outcomes.append(outcome)
                self.quota.learn(outcome)


def _texts_done(shard: ShardState, batches: Mapping[str, Batch | None]) -> int:
    """Texts of a running batch that are done, from its request counts: requests hold about as many texts each."""
    batch = batches[str(shard.batch_id)]
    counts = batch.request_counts if batch else None
    if not counts or not counts.total:
        return 0
    return shard.shard.texts * min(counts.completed + counts.failed, counts.total) // counts.total
