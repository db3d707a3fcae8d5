"""What open claims come to: tokens, requests and dollars, exact, and apart whether their batch is known to be out."""

from collections.abc import Callable
from dataclasses import dataclass, field

from embedfill.records import Shard
from embedfill.tracker.state import ShardState, State

PriceOf = Callable[[Shard], float | None]  # USD of a whole shard, at most; None: no price is known


@dataclass(slots=True)
class Amount:
    tokens: int = 0
    requests: int = 0
    usd: float = 0.0

    def add(self, shard: Shard, usd: float | None) -> None:
        self.tokens += shard.tokens
        self.requests += shard.requests
        self.usd += usd or 0.0


@dataclass(slots=True)
class Sums:
    """`posted` are shards whose batch is known; `claimed` those of claims without a reference: about to be posted,
    given up, or in doubt."""

    spent_usd: float = 0.0
    posted: Amount = field(default_factory=Amount)
    claimed: Amount = field(default_factory=Amount)

    @property
    def usd(self) -> float:
        """Spent, and to be spent if all that is out is answered."""
        return self.spent_usd + self.posted.usd + self.claimed.usd

    @property
    def tokens(self) -> int:
        return self.posted.tokens + self.claimed.tokens

    @property
    def requests(self) -> int:
        return self.posted.requests + self.claimed.requests

    def add(self, state: ShardState, price_of: PriceOf) -> None:
        (self.posted if state.batch_id else self.claimed).add(state.shard, price_of(state.shard))


def sums_of(state: State, price_of: PriceOf, besides: str = "") -> Sums:
    """Over all outcomes and open claims of the space, but for the shard `besides`. One pass; keep it up with `add`."""
    sums = Sums(state.spent_usd())
    for shard in state.out():
        if shard.shard.id != besides:
            sums.add(shard, price_of)
    return sums
