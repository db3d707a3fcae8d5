"""Which shard may go out now: the enqueued-token limit and the budget, as sums over outcomes and open claims."""

from collections.abc import Callable
from dataclasses import dataclass, field

from embedfill.clock import Clock
from embedfill.errors import BillingError, ProviderError
from embedfill.records import Outcome, Shard
from embedfill.tracker.state import State, Status

_TOKEN_LIMIT = "token_limit_exceeded"  # noqa: S105 - an error code
_FRUITLESS = 3  # batches in a row that brought nothing, before the run stops and says so
_HOLD_S = 30.0
_HOLD_MAX_S = 600.0


@dataclass(slots=True)
class Quota:
    """`max_enqueued_tokens` and `budget_usd` as configured; None: no limit. After a refusal for the enqueued-token
    limit nothing is submitted for a while, longer each time. One for a whole run: it learns from every outcome."""

    max_enqueued_tokens: int | None
    budget_usd: float | None
    hold_s: float = 0.0
    held_until: float = 0.0
    fruitless: int = 0  # batches in a row that brought nothing
    clock: Clock = field(default_factory=Clock)

    @property
    def shard_tokens(self) -> int | None:
        """Tokens of one shard, at most: a quarter of the quota, so that it drains evenly."""
        return None if self.max_enqueued_tokens is None else max(1, self.max_enqueued_tokens // 4)

    def admits(self, state: State, shard: Shard) -> bool:
        """Whether the shard fits under the limit now; one that is alone always does."""
        if self.waiting():
            return False
        enqueued = state.open_tokens()
        return self.max_enqueued_tokens is None or not enqueued or enqueued + shard.tokens <= self.max_enqueued_tokens

    def waiting(self) -> bool:
        return self.clock.now() < self.held_until

    def check_budget(self, state: State, shard: Shard, price_of: Callable[[Shard], float | None]) -> None:
        """Raises BillingError where the shard could take spending over the budget, counting what is in flight."""
        price = price_of(shard)
        if self.budget_usd is None or not price:
            return
        open_shards = [other for other in state.open() if other.status is not Status.PLANNED]
        open_usd = sum(price_of(other.shard) or 0.0 for other in open_shards)
        if state.spent_usd() + open_usd + price > self.budget_usd:
            raise BillingError(
                f"the next batch (${price:.6g}) would exceed budget_usd = {self.budget_usd}: ${state.spent_usd():.6g} "
                f"spent, ${open_usd:.6g} in flight",
                "raise batch.budget_usd, then run again: it goes on from here",
            )

    def learn(self, outcome: Outcome) -> None:
        """A refusal for the enqueued-token limit is waited out; a vector ends the waiting. Raises ProviderError with the
        provider's words where batch after batch brings nothing: it is not asked for ever."""
        if any(_TOKEN_LIMIT in words for words in outcome.errors):
            self.hold_s = min(max(self.hold_s * 2, _HOLD_S), _HOLD_MAX_S)
            self.pause(self.hold_s)
            return
        if outcome.vectors:
            self.hold_s = self.held_until = 0.0
        self.fruitless = 0 if outcome.vectors or outcome.refused else self.fruitless + 1
        if self.fruitless >= _FRUITLESS:
            words = "; ".join(outcome.errors) or f"status {outcome.status}"
            raise ProviderError(
                f"{self.fruitless} batches in a row brought no vector, the last one {outcome.batch_id}: {words}",
                "nothing is lost: mend the cause and run again",
            )

    def pause(self, seconds: float) -> None:
        """Nothing is submitted for that long."""
        self.held_until = max(self.held_until, self.clock.now() + seconds)
