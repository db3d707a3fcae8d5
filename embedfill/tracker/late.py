"""What batches held of the enqueued-token limit before they ended: providers release it late and do not say when.

How late is learned: from nothing at first, up with every refusal that a late release explains, slowly down with every
batch that was taken. Each late release explains one refusal; then it is waited out for long.
"""

from dataclasses import dataclass, field

from embedfill.records import Shard

_FORGET_S = 3600.0  # after that long a batch that has ended explains nothing any more
_FIRST_S = 300.0  # what the first refusal teaches
_UP_S, _DOWN_S = 60.0, 30.0  # so that about one late release in three is met by a refusal
_LONG_S = 600.0  # how long a release that was refused once is waited for, at least


@dataclass(slots=True)
class Release:
    """The tokens and requests of a batch that ended: counted on until `until`, and whether a refusal taught that."""

    shard: Shard
    ended: float
    until: float
    taught: float = float("-inf")

    def counted(self, sent: float) -> bool:
        """Whether we took it into account at that time."""
        return self.taught <= sent < self.until


@dataclass(slots=True)
class LateReleases:
    """Times are those of one monotonic clock, in seconds."""

    lag_s: float = 0.0
    held: dict[str, Release] = field(default_factory=dict)

    def ended(self, shard: Shard, now: float) -> None:
        self.held[shard.id] = Release(shard, now, now + self.lag_s)
        for old in [name for name, one in self.held.items() if now - one.ended > _FORGET_S]:
            del self.held[old]

    def tokens(self, now: float) -> int:
        return sum(one.shard.tokens for one in self.held.values() if one.until > now)

    def requests(self, now: float) -> int:
        return sum(one.shard.requests for one in self.held.values() if one.until > now)

    def since(self, sent: float) -> int:
        """Tokens of what ended since then: it was in flight at that time."""
        return sum(one.shard.tokens for one in self.held.values() if one.ended > sent)

    def taken(self) -> None:
        """A batch that relied on releases was taken: perhaps less patience would do."""
        self.lag_s = max(0.0, self.lag_s - _DOWN_S)

    def explain(self, room: int, sent: float, now: float) -> bool:
        """Whether late releases explain that a shard, sent then, was refused though by our sums it left `room` tokens
        free. The youngest are blamed first."""
        before = [one for one in self.held.values() if one.ended <= sent]
        room -= sum(one.shard.tokens for one in before if one.counted(sent))
        blamed: list[Release] = []
        for one in sorted((one for one in before if not one.counted(sent)), key=lambda one: -one.ended):
            blamed.append(one)
            room -= one.shard.tokens
            if room < 0:
                self._teach(blamed, sent, now)
                return True
        return False

    def _teach(self, blamed: list[Release], sent: float, now: float) -> None:
        fresh = [one for one in blamed if one.taught <= sent]
        if fresh:
            self.lag_s = max(_FIRST_S, self.lag_s + _UP_S)
        for one in fresh:
            one.until = max(now, one.ended + max(_LONG_S, 2 * (sent - one.ended)))
            one.taught = now
