"""A claim without a batch reference: was the batch made? Look, adopt what is found; supersede only what is not.

The provider's listing is paged back past the claim's upload and matched by metadata or by input file. What is not
found for as long as a listing may be late is fenced (the uploaded file is deleted, so a POST still under way fails
unbilled), looked for once more when the listing has had time to show a POST that came right before that, and only then
void: the shard goes out under its next attempt.

What remains possible: a maker that sleeps past `claim_ttl_s`, wakes after that, posts, and finds a provider that runs a
batch whose input file is gone. It then finds its claim void and cancels the batch at once: what ran till then is paid
twice, and nothing else. A claim of the synchronous endpoint names no file, so nothing of it can be found or fenced: it is
void as soon as it is in doubt.
"""

from dataclasses import dataclass, field

from embedfill.batchapi.models import Batch
from embedfill.errors import RefusedError
from embedfill.records import Claim
from embedfill.store import layout
from embedfill.tracker.listing import back_to, keep_one
from embedfill.tracker.maker import in_hand, is_dead
from embedfill.tracker.state import ShardState, State, reference
from embedfill.tracker.submit import Account, adopt

_CLOCK_MARGIN_S = 3600  # the provider stamps files and batches by clocks of its own


@dataclass(slots=True)
class Doubts:
    """Remembers since when each open claim has been looked for in vain (monotonic seconds of this process)."""

    account: Account
    since: dict[tuple[str, int], float] = field(default_factory=dict)

    def resolve(self, state: State, open_claims: list[ShardState], store_now: float) -> None:
        """Looks for the batches of all claims in doubt, in one pass over the listing."""
        doubtful = {shard.shard.id: (shard, state.claim(shard)) for shard in open_claims}
        doubtful = {name: pair for name, pair in doubtful.items() if self._in_doubt(*pair, store_now)}
        if not doubtful:
            return
        now = self.account.clock.now()  # of the look: what passes till its answer is there proves nothing
        found, given_up = self._look(doubtful), {}
        for name, (shard, claim) in doubtful.items():
            if name in found:
                self._adopt(shard, found[name])
            elif not claim.file_id:
                self._void(shard, claim, "its maker is gone, and the synchronous endpoint lists nothing")
            elif self._long_enough(shard, claim, now, store_now):
                given_up[name] = (shard, claim)
        if given_up:
            self._supersede(given_up)

    def _in_doubt(self, shard: ShardState, claim: Claim, store_now: float) -> bool:
        """Ours, and no thread of ours is about to post it; or its maker is dead; or it is too old."""
        if claim.nonce in in_hand:
            return False
        return claim.maker == self.account.maker or is_dead(claim.maker) or self._too_old(shard, store_now)

    def _too_old(self, shard: ShardState, store_now: float) -> bool:
        """Older, by the store's clock, than any maker would take to post."""
        return store_now - shard.claimed_at > self.account.patience.claim_ttl_s

    def _look(self, doubtful: dict[str, tuple[ShardState, Claim]]) -> dict[str, list[Batch]]:
        """The provider's batches of these claims."""
        by_file = {claim.file_id: name for name, (_, claim) in doubtful.items() if claim.file_id}
        found: dict[str, list[Batch]] = {}
        if not by_file:
            return found
        oldest = min(claim.file_created_at for _, claim in doubtful.values() if claim.file_id) - _CLOCK_MARGIN_S
        for batch in back_to(self.account.client.batches(), oldest):
            name = self._match(batch, doubtful) or by_file.get(batch.input_file_id)
            if name:
                found.setdefault(name, []).append(batch)
        return found

    def _match(self, batch: Batch, doubtful: dict[str, tuple[ShardState, Claim]]) -> str | None:
        name = (batch.metadata or {}).get("embedfill_shard", "")
        if name in doubtful and batch.metadata == self.account.metadata(name, doubtful[name][1].attempt):
            return str(name)
        return None

    def _adopt(self, shard: ShardState, batches: list[Batch]) -> None:
        """One of them is ours; another one for the same claim should not exist and is cancelled."""
        batch, surplus = keep_one(batches)
        adopt(self.account, shard, batch)
        for other in surplus:
            self.account.client.cancel(other.id)

    def _long_enough(self, shard: ShardState, claim: Claim, now: float, store_now: float) -> bool:
        """Looked for since longer than a listing may be late; or posted so long ago, if ever, that one look tells: a
        run that does not wait looks once."""
        delay_s = self.account.patience.listing_delay_s
        first = self.since.setdefault((claim.shard, claim.attempt), now)
        return now - first >= delay_s or self._too_old(shard, store_now - delay_s)

    def _supersede(self, given_up: dict[str, tuple[ShardState, Claim]]) -> None:
        for _, claim in given_up.values():
            self._fence(claim)
        self.account.clock.sleep(self.account.patience.listing_delay_s)
        late = self._look(given_up)
        for name, (shard, claim) in given_up.items():
            if name in late:
                self._adopt(shard, late[name])
            else:
                self._void(shard, claim, "no batch of this claim was found")

    def _fence(self, claim: Claim) -> None:
        """Deletes the input file. A provider that cannot delete files leaves us without a fence, not without a way."""
        self.account.at("before-fence")
        try:
            self.account.client.delete_file(claim.file_id)
        except RefusedError as error:
            if error.status not in (405, 501):
                raise
        self.account.at("after-fence")

    def _void(self, shard: ShardState, claim: Claim, why: str) -> None:
        """Where a reference stands already, the next listing shows it."""
        key = layout.batch(self.account.space, claim.shard, claim.attempt)
        shard.void = self.account.store.create(key, reference(None, why))
