"""Which planned shards go out now, in what order: under the limits and the budget, checked before the upload and again
once the own claim stands. Polls nothing, waits for nothing.

The oldest that fits goes first. A smaller one may go before a large one that does not fit yet, but not for ever: when
four times its size went before, the quota is kept free for it.
"""

import random
from dataclasses import dataclass, field

from embedfill.errors import BillingError, RefusedError
from embedfill.tracker.budget import affords
from embedfill.tracker.elsewhere import Elsewhere
from embedfill.tracker.quota import TOKEN_LIMIT, Quota
from embedfill.tracker.retire import retire
from embedfill.tracker.state import ShardState, State, Status
from embedfill.tracker.submit import Account, submit
from embedfill.tracker.sums import Sums, sums_of

_REFUSALS = 5  # refused POSTs in a row, before the run stops and says so
_OVERTAKEN = 4  # times its own size that may go before a shard


@dataclass(slots=True)
class Dispatch:
    """`parked` is why nothing more goes out: the budget, looked at anew in each round, since a batch that brings less
    costs less; or the provider's billing limit, for good. `returned` tokens were taken back, to be planned anew."""

    account: Account
    state: State
    quota: Quota
    submitted: int = 0
    returned: int = 0
    parked: BillingError | None = None
    _closed: bool = field(init=False, default=False)
    _elsewhere: Elsewhere = field(init=False)
    _refusals: int = field(init=False, default=0)
    _first: str = field(init=False, default="")  # the oldest shard that does not fit
    _passed: int = field(init=False, default=0)  # tokens that went before it

    def __post_init__(self) -> None:
        self._elsewhere = Elsewhere(self.account.store, self.account.cache, self.account.space)

    def close(self, error: BillingError) -> None:
        """Nothing more goes out in this run."""
        self.parked, self._closed = error, True

    def round(self) -> None:
        """Submits what may go out. Raises RefusedError where the provider refuses for good, or again and again."""
        if self._closed:
            return
        self.parked = None
        planned = self._retire([shard for shard in self.state.open() if shard.status is Status.PLANNED])
        if not planned or self.quota.waiting():
            return
        sums = self._sums()
        waits = False
        for shard in planned:
            if shard.status is not Status.PLANNED:
                continue  # others took it while we were at the ones before
            if not self.quota.fits(sums, shard.shard):
                if not waits and self._starves(shard):
                    return
                waits = True
            elif self._affords(sums, shard):
                self._send(shard, sums)
                self._passed += shard.shard.tokens if waits else 0
            if self.parked or self.quota.waiting():
                return

    def _sums(self, besides: str = "") -> Sums:
        """Of the budget's part, also what other spaces of the store have spent and have out."""
        sums = sums_of(self.state, self.account.price_of, besides)
        return sums if self.quota.budget_usd is None else self._elsewhere.refresh().count(sums)

    def _retire(self, planned: list[ShardState]) -> list[ShardState]:
        too_large = [shard for shard in planned if self.quota.too_large(shard.shard)]
        if not too_large:
            return planned
        self.returned += sum(shard.shard.tokens for shard in retire(self.account, self.state, too_large))
        return [shard for shard in planned if shard.status is Status.PLANNED]

    def _starves(self, shard: ShardState) -> bool:
        """Whether too much went before the oldest shard that does not fit."""
        if self._first != shard.shard.id:
            self._first, self._passed = shard.shard.id, 0
        return self._passed >= _OVERTAKEN * shard.shard.tokens

    def _affords(self, sums: Sums, shard: ShardState) -> bool:
        try:
            if affords(self.quota.budget_usd, sums, self.account.price_of(shard.shard)):
                return True
            self._later()
        except BillingError as error:
            self.parked = error
        return False

    def _later(self) -> None:
        """Another tracker may want the same: who comes back when is left to chance, so that they do not meet again."""
        self.quota.pause(random.uniform(0.0, 2 * self.account.patience.poll_s))  # noqa: S311 - not a secret

    def _send(self, shard: ShardState, sums: Sums) -> None:
        try:
            self.submitted += submit(self.account, shard, lambda: self._withdraw(shard))
            self._refusals = 0
        except BillingError as error:
            self.close(error)
        except RefusedError as error:
            self._refused(error, shard, sums)
        if shard.status in (Status.CLAIMED, Status.SUBMITTED):
            sums.add(shard, self.account.price_of)
            self.quota.sent(shard)

    def _withdraw(self, shard: ShardState) -> str:
        """Asked once our claim stands: why nothing may be posted after all, now that all claims are known. Of two
        trackers that claimed at once at least one sees the other."""
        self.state.refresh()
        if shard.retired_at is not None:
            return "another run has retired the shard"
        if not self.quota.limited:
            return ""
        sums = self._sums(besides=shard.shard.id)
        if not self.quota.fits(sums, shard.shard):
            self._later()
            return "other claims leave too little of the enqueued limit"
        if not self._affords(sums, shard):
            return self.parked.message if self.parked else "other claims may take the rest of the budget"
        return ""

    def _refused(self, error: RefusedError, shard: ShardState, sums: Sums) -> None:
        """A refused POST made no batch. It is tried again in a later round where that can help: the provider was
        busy, or could not read the new file yet, or has too much enqueued."""
        if TOKEN_LIMIT in (error.code, error.message):
            self.quota.refused(shard.shard, sums)
            return
        self._refusals += 1
        passing = error.retryable or "file" in error.message.lower()
        if not passing or self._refusals >= _REFUSALS:
            raise error
        self.quota.pause(max(error.retry_after_s or 0.0, self.account.patience.poll_s))
