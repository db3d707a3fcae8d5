"""Carries planned shards to their outcomes: one loop of look, poll, collect and submit over the derived state."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from embedfill.batchapi.models import Batch
from embedfill.errors import BillingError, ProviderError, RefusedError, UnreachableError
from embedfill.records import Outcome
from embedfill.tracker.alarm import Alarm
from embedfill.tracker.budget import billing_limit
from embedfill.tracker.collect import Collector, Settle
from embedfill.tracker.dispatch import Dispatch
from embedfill.tracker.doubt import Doubts
from embedfill.tracker.quota import Quota, over_the_limit
from embedfill.tracker.recover import Recovery
from embedfill.tracker.state import ShardState, State, Status, store_time
from embedfill.tracker.submit import Account
from embedfill.tracker.sums import sums_of

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
        self.collector = Collector(account, settle, note=note)
        self.dispatch = Dispatch(account, state, quota)
        self.doubts = Doubts(account)
        self.recovery = Recovery(account)
        self.alarm = Alarm(account, note)
        self.done = Advanced()
        self._recovered = False
        self._outages = 0

    def run(self, wait: bool = True, progress: Callable[[int], None] = lambda _: None) -> Advanced:
        """Until every shard is settled or nothing more can be done; with `wait` False, one round. Returns earlier where
        nothing is left to submit but enough came back to be planned anew. `progress` is told how many texts are done,
        of all that were open at the start, as far as the provider says."""
        pause_s, self.collector.waits = self.account.patience.poll_s, wait
        while True:
            before = (self.done.submitted, len(self.done.outcomes))
            try:
                self.round(progress)
                self._outages = 0
                if not wait or self._finished():
                    return self.done
            except (ProviderError, BillingError) as error:
                self._endure(error, wait)
            moved = before != (self.done.submitted, len(self.done.outcomes))
            pause_s = self.account.patience.poll_s if moved else min(pause_s * 1.5, self.account.patience.poll_max_s)
            self.account.clock.sleep(self._pause_s(pause_s))

    def round(self, progress: Callable[[int], None]) -> None:
        """Looks into what is in doubt, polls and settles what has ended, submits what may go out. In this order: a
        provider that refuses what is new must not keep us from what is paid."""
        self.state.refresh()
        if not self._recovered:
            self.recovery.adopt_lost(self.state)
            self._recovered = True
        self._resolve()
        self._collect(progress)
        try:
            self.dispatch.round()
        finally:
            self.done.submitted, self.done.parked = self.dispatch.submitted, self.dispatch.parked

    def _endure(self, error: ProviderError | BillingError, wait: bool) -> None:
        """A batch may take a day: an outage of minutes on the way is no reason to give up waiting. A provider that no
        longer answers for its billing limit may, too."""
        away = isinstance(error, UnreachableError) or (isinstance(error, RefusedError) and error.status >= 500)
        if isinstance(error, BillingError):
            self.dispatch.close(error)
            away = True
        self._outages += 1
        if not (away and wait and self.state.out()) or self._outages >= _OUTAGES:
            raise error
        if self._outages == 1:
            self.note(f"{error.message}; trying again")

    def _finished(self) -> bool:
        planned = any(shard.status is Status.PLANNED for shard in self.state.open())
        if not self.state.out():
            return not planned or self.done.parked is not None
        return not planned and not self.done.parked and self._plans_more()

    def _plans_more(self) -> bool:
        """Whether texts for half a shard came back: planned anew, they go out while the rest is still waited for."""
        sizes = (shard.shard.tokens for shard in self.state.shards.values())
        return 2 * self.dispatch.returned >= max(2, self.quota.shard_tokens or max(sizes, default=1))

    def _pause_s(self, pause_s: float) -> float:
        """While something waits for the quota its room is looked for often, and just when it is known to grow."""
        if self.done.parked or not any(shard.status is Status.PLANNED for shard in self.state.open()):
            return pause_s
        return min(self.account.patience.poll_s, max(self.quota.wait_s(), self.account.patience.poll_s / 10))

    def _resolve(self) -> None:
        claimed = [shard for shard in self.state.open() if shard.status is Status.CLAIMED]
        if claimed:
            self.doubts.resolve(self.state, claimed, store_time(self.account.store))

    def _collect(self, progress: Callable[[int], None]) -> None:
        submitted = [shard for shard in self.state.open() if shard.status is Status.SUBMITTED]
        ended = self._settled(submitted, progress) if submitted else []
        self.quota.see(self.state.out())
        for shard, outcome in ended:
            self._learn(shard, outcome)

    def _settled(
        self, submitted: list[ShardState], progress: Callable[[int], None]
    ) -> list[tuple[ShardState, Outcome]]:
        """All of them that have ended, each with its outcome."""
        batches = self.collector.poll(submitted)
        progress(
            sum(outcome.texts for outcome in self.done.outcomes)
            + sum(_texts_done(shard, batches) for shard in submitted)
        )
        self.alarm.look(submitted, batches)
        ended = []
        for shard in submitted:
            outcome = self.collector.collect(self.state, shard, batches[str(shard.batch_id)])
            if outcome is not None:
                self.done.outcomes.append(outcome)
                ended.append((shard, outcome))
        return ended

    def _learn(self, shard: ShardState, outcome: Outcome) -> None:
        missing = max(0, outcome.texts - outcome.vectors - outcome.refused)
        self.dispatch.returned += math.floor(shard.shard.tokens * missing / max(1, outcome.texts))
        if error := billing_limit(outcome):
            self.dispatch.close(error)
        elif over_the_limit(outcome):
            self.quota.refused(shard.shard, sums_of(self.state, self.account.price_of))
        else:
            self.quota.learn(outcome)


def _texts_done(shard: ShardState, batches: Mapping[str, Batch | None]) -> int:
    """Texts of a running batch that are done, from its request counts: requests hold about as many texts each."""
    batch = batches[str(shard.batch_id)]
    counts = batch.request_counts if batch else None
    if not counts or not counts.total:
        return 0
    return shard.shard.texts * min(counts.completed + counts.failed, counts.total) // counts.total
