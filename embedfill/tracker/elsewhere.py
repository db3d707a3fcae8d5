"""What the other spaces of a store have spent, and what is out of theirs: a budget is over the life of the store, whatever
its model is called today. Submits nothing."""

from dataclasses import dataclass, field

from embedfill.store.base import Store
from embedfill.store.cache import Cache
from embedfill.tracker.state import ShardState, State, spaces
from embedfill.tracker.sums import Sums


@dataclass(slots=True)
class Elsewhere:
    """The spaces that have plans, but for one."""

    store: Store
    cache: Cache
    space: str
    states: dict[str, State] = field(default_factory=dict)

    def refresh(self) -> "Elsewhere":
        for space in set(spaces(self.store)) - {self.space}:
            self.states.setdefault(space, State(self.store, self.cache, space)).refresh()
        return self

    def out(self) -> list[ShardState]:
        """Shards that were claimed or submitted, and have no outcome: they come back when their own configuration runs."""
        return [shard for state in self.states.values() for shard in state.out()]

    def spent_usd(self) -> float:
        return sum(state.spent_usd() for state in self.states.values())

    def count(self, sums: Sums) -> Sums:
        """Adds what was spent, and is out, to the dollars of these sums."""
        sums.spent_usd += self.spent_usd()
        sums.posted.usd += self.out_usd()
        return sums

    def out_usd(self) -> float:
        """What is out, at the prices of its claims."""
        return sum(state.claim(shard).price_usd or 0.0 for state in self.states.values() for shard in state.out())
