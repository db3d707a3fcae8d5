"""Batches of ours that the store does not know: claims and references that were lost are written again from the
provider's listing. Submits nothing, and touches no batch of another store.

A shard's id follows from its space, its plan's number and its rows, so even a plan that was lost and made again from the
same corpus finds its batches. What cannot be found: batches of a provider that keeps no metadata, or lists none.
"""

import math
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

from embedfill import ids
from embedfill.batchapi.models import Batch
from embedfill.errors import RefusedError
from embedfill.records import Claim
from embedfill.store import layout
from embedfill.tracker.listing import back_to, is_empty, keep_one
from embedfill.tracker.maker import in_hand
from embedfill.tracker.state import ShardState, State, Status, store_time
from embedfill.tracker.submit import Account, adopt

_KEPT_S = 31 * 86_400  # how long providers keep what a batch brought
_MARGIN_S = 2 * 86_400  # a store brought back from a backup is younger than what is out; a batch runs for a day
_NO_LISTING = (404, 405, 501)


@dataclass(slots=True)
class Recovery:
    """Once per run, before its first submission: a batch that is out already is not paid again."""

    account: Account
    looked: set[str] = field(default_factory=set)  # shards that were looked for: each only once

    def adopt_lost(self, state: State) -> int:
        """How many shards without an open claim were found at the provider; they are SUBMITTED now, also where the
        batch has ended. Walks the listing once, and not at all where nothing is about to be submitted."""
        planned = [shard for shard in state.open() if shard.status is Status.PLANNED]
        lost = {shard.shard.id: shard for shard in planned if shard.shard.id not in self.looked}
        if not lost:
            return 0
        self.looked |= lost.keys()
        found = self._look(lost)
        return sum(self._adopt(lost[name], batches) for name, batches in found.items())

    def _look(self, lost: dict[str, ShardState]) -> dict[str, list[Batch]]:
        """The batches of these shards that hold, or may come to hold, anything, by shard."""
        found: dict[str, list[Batch]] = {}
        try:
            for batch in self._recent():
                name = str((batch.metadata or {}).get("embedfill_shard", ""))
                if name in lost and self._is_ours(batch, name) and not is_empty(batch):
                    found.setdefault(name, []).append(batch)
        except RefusedError as error:
            if error.status not in _NO_LISTING:
                raise
        return found

    def _recent(self) -> Iterator[Batch]:
        """As far back as this store can have made any. The newest batch is at most as old as now, and the store's age
        is a difference of its own times: no clock is compared with another's."""
        listing = self.account.client.batches()
        newest = next(listing, None)
        if newest is None:
            return
        yield newest
        age_s = store_time(self.account.store) - self._made_at()
        yield from back_to(listing, newest.created_at - min(age_s + _MARGIN_S, _KEPT_S))

    def _made_at(self) -> float:
        return next((entry.modified for entry in self.account.store.list(layout.STORE)), 0.0)

    def _is_ours(self, batch: Batch, shard_id: str) -> bool:
        attempt = str((batch.metadata or {}).get("embedfill_try", ""))
        return attempt.isdecimal() and batch.metadata == self.account.metadata(shard_id, int(attempt))

    def _adopt(self, shard: ShardState, batches: list[Batch]) -> bool:
        """Claims the shard's next attempt for the batch. Somebody else may have claimed it: then it is theirs."""
        batch, surplus = keep_one(batches)
        account, nonce = self.account, secrets.token_hex(8)
        in_hand.add(nonce)
        try:
            claim = Claim(
                shard.shard.id, shard.attempt + 1, batch.input_file_id, batch.created_at, shard.shard.tokens,
                account.price_of(shard.shard), account.maker, nonce,
            )  # fmt: skip
            key = layout.claim(account.space, claim.shard, claim.attempt)
            if not account.store.create(key, ids.canonical(asdict(claim))):
                return False
            shard.attempt, shard.claimed_at, shard.batch_id, shard.void = claim.attempt, math.inf, None, False
            account.at("after-recovered-claim")
            adopted = adopt(account, shard, batch)
        finally:
            in_hand.discard(nonce)
        for other in surplus:
            account.client.cancel(other.id)
        return adopted
