"""The provider's limit on what may be enqueued at once: whether a shard fits under it now, by exact sums over open
claims, and how far the limit that holds is from the one that is configured. Spends nothing, submits nothing.

A refusal that no late release explains shrinks the limit to what is known to fit: what was in flight besides. It grows
again by a shard at a time, up to the configured limit, or without bound where none is configured.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from embedfill.batchapi.models import EMBEDDINGS
from embedfill.clock import Clock
from embedfill.config import BatchConfig
from embedfill.errors import ConfigError, ProviderError
from embedfill.providers.profiles import Profile
from embedfill.records import Outcome, Shard
from embedfill.tracker.late import LateReleases
from embedfill.tracker.state import ShardState
from embedfill.tracker.sums import Sums

TOKEN_LIMIT = "token_limit_exceeded"  # noqa: S105 - an error code
_FRUITLESS = 3  # batches in a row that brought nothing, before the run stops and says so
_HOLD_S, _HOLD_MAX_S = 30.0, 600.0  # nothing is sent after a shard was refused though it was alone
_GROW_S, _GROW_MAX_S = 600.0, 86_400.0  # between two steps up; twice as long after each step that failed
_ALONE = 2  # refusals of a shard that was alone, before it counts as too large
_ALONE_MAX = 100  # of them in a row, before the run stops and says so


@dataclass(slots=True)
class Quota:
    """Limits as configured; None: none. One for a whole run: it learns from every batch. `limit` holds now."""

    max_enqueued_tokens: int | None
    budget_usd: float | None
    max_enqueued_requests: int | None = None
    clock: Clock = field(default_factory=Clock)
    limit: int | None = field(init=False)
    late: LateReleases = field(init=False, default_factory=LateReleases)
    fruitless: int = field(init=False, default=0)  # batches in a row that brought nothing
    alone: int = field(init=False, default=0)  # refusals in a row of shards that were alone
    held_until: float = field(init=False, default=-math.inf)
    _grow_at: float = field(init=False, default=math.inf)
    _grow_s: float = field(init=False, default=_GROW_S)
    _shrunk: float = field(init=False, default=-math.inf)
    _out: dict[str, ShardState] = field(init=False, default_factory=dict)
    _sent: dict[str, float] = field(init=False, default_factory=dict)
    _accompanied: set[str] = field(init=False, default_factory=set)  # shards that were not out alone all the time

    def __post_init__(self) -> None:
        self.limit = self.max_enqueued_tokens

    @property
    def shard_tokens(self) -> int | None:
        """Tokens of one shard, at most: a quarter of the quota, so that it drains evenly."""
        known = [self.max_enqueued_tokens]
        if self.max_enqueued_tokens is None or self.alone >= _ALONE:
            known.append(self.limit)
        return min((max(1, tokens // 4) for tokens in known if tokens is not None), default=None)

    @property
    def limited(self) -> bool:
        """Whether anything has to be summed up before a shard goes out."""
        return (self.limit, self.budget_usd, self.max_enqueued_requests) != (None, None, None)

    def fits(self, sums: Sums, shard: Shard) -> bool:
        """Whether the shard fits under the limits now; one that is alone always does: the provider is the judge."""
        now = self.clock.now()
        requests, tokens = sums.requests + self.late.requests(now), sums.tokens + self.late.tokens(now)
        if not requests:
            return True
        if self.max_enqueued_requests is not None and requests + shard.requests > self.max_enqueued_requests:
            return False
        self._grow(tokens + shard.tokens, shard.tokens, now)
        return self.limit is None or tokens + shard.tokens <= self.limit

    def too_large(self, shard: Shard) -> bool:
        """Whether the shard cannot fit as long as the limit stays: it is to be planned anew, in smaller ones. One of a
        single text has none."""
        return self.alone >= _ALONE and self.limit is not None and shard.tokens > self.limit and shard.texts > 1

    def see(self, out: Iterable[ShardState]) -> None:
        """Told in each round what is out: notices what has gone out and what has ended, by whomever."""
        now = self.clock.now()
        seen = {shard.shard.id: shard for shard in out}
        for name, shard in self._out.items():
            if name not in seen and shard.settled:
                self.late.ended(shard.shard, now)
        for name in seen.keys() - self._sent.keys():
            self._sent[name] = now
        self._out = seen
        if len(seen) > 1:
            self._accompanied.update(seen)

    def sent(self, shard: ShardState) -> None:
        self._out[shard.shard.id] = shard
        self._sent[shard.shard.id] = self.clock.now()
        if len(self._out) > 2:  # those before it are known to be
            self._accompanied.add(shard.shard.id)
        elif len(self._out) == 2:
            self._accompanied.update(self._out)

    def refused(self, shard: Shard, sums: Sums) -> None:
        """The provider refused the shard for its limit; `sums` are over what is out besides. Raises ProviderError where
        it does so again and again, with nothing else out."""
        now = self.clock.now()
        self.late.held.pop(shard.id, None)
        self._out.pop(shard.id, None)
        sent = self._sent.pop(shard.id, now)
        fits = sums.tokens + self.late.since(sent)
        if self.limit is not None and self.late.explain(self.limit - fits - shard.tokens, sent, now):
            return
        if fits or shard.id in self._accompanied:
            self._shrink(fits or shard.tokens, sent, now)
        else:
            self._refused_alone(shard, now)

    def learn(self, outcome: Outcome) -> None:
        """What became of a batch that was not refused for the limit. Raises ProviderError with the provider's words
        where batch after batch brings nothing: it is not asked for ever."""
        if outcome.vectors:
            self.alone = 0
            self.late.taken()
        self.fruitless = 0 if outcome.vectors or outcome.refused else self.fruitless + 1
        if self.fruitless >= _FRUITLESS:
            words = "; ".join(outcome.errors) or f"status {outcome.status}"
            raise ProviderError(
                f"{self.fruitless} batches in a row brought nothing, the last one {outcome.batch_id}: {words}",
                "nothing is lost: mend the cause and run again",
            )

    def waiting(self) -> bool:
        return self.clock.now() < self.held_until

    def pause(self, seconds: float) -> None:
        """Nothing is submitted for that long."""
        self.held_until = max(self.held_until, self.clock.now() + seconds)

    def wait_s(self) -> float:
        """Seconds until more may fit though nothing ends meanwhile; infinite where nothing tells."""
        now = self.clock.now()
        if self.waiting():
            return self.held_until - now
        times = [one.until for one in self.late.held.values()] + [self._grow_at]
        return min((time - now for time in times if time > now), default=math.inf)

    def _grow(self, needed: int, step: int, now: float) -> None:
        if self.limit is None or needed <= self.limit or now < self._grow_at:
            return
        self.limit = min(self.limit + step, self.max_enqueued_tokens or self.limit + step)
        self._grow_at = math.inf if self.limit == self.max_enqueued_tokens else now + self._grow_s

    def _shrink(self, fits: int, sent: float, now: float) -> None:
        """Several that were refused at once teach one lesson."""
        if sent > self._shrunk > -math.inf:
            self._grow_s = min(self._grow_s * 2, _GROW_MAX_S)
        self.limit = fits if self.limit is None else min(self.limit, fits)
        self._shrunk, self._grow_at = now, now + self._grow_s

    def _refused_alone(self, shard: Shard, now: float) -> None:
        """Either somebody else is using the limit up, or the shard is larger than the limit."""
        self.alone += 1
        if self.alone >= _ALONE_MAX:
            raise ProviderError(
                f"the provider refuses {shard.tokens:,} tokens for its enqueued-token limit though nothing else of "
                "this store is out",
                "what else uses this account? Nothing is lost: run again later",
            )
        most = shard.tokens if self.alone < _ALONE else max(1, shard.tokens // 2)
        self._shrink(most, -math.inf, now)
        self.pause(min(_HOLD_S * 2 ** (self.alone - 1), _HOLD_MAX_S))


def over_the_limit(outcome: Outcome) -> bool:
    """Whether the batch was refused for the enqueued-token limit: it ran nothing and may go out again as it is."""
    return any(TOKEN_LIMIT in words for words in outcome.errors)


def quota_of(profile: Profile, batch: BatchConfig, endpoint: str = EMBEDDINGS) -> Quota:
    """The limits that a configuration gives, else those that the profile knows. Raises ConfigError for a tier that the
    provider is not known to have, or whose limit on this endpoint nobody knows."""
    tokens = batch.max_enqueued_tokens
    if tokens is None and batch.tier is not None:
        tokens = _tokens_of_tier(profile, batch.tier, endpoint)
    requests = batch.max_enqueued_requests
    return Quota(tokens, batch.budget_usd, profile.limits.enqueued_requests if requests is None else requests)


def _tokens_of_tier(profile: Profile, tier: int, endpoint: str) -> int:
    if tier > len(profile.embedding_tiers):
        raise ConfigError("batch.tier", tier, f"{profile.name} is not known to have it: set batch.max_enqueued_tokens")
    if endpoint != EMBEDDINGS:
        allowed = (
            f"the limits of {profile.name}'s tiers are known for embedding models alone, and these requests go to "
            f"{endpoint}: set batch.max_enqueued_tokens to what your account has for the model"
        )
        raise ConfigError("batch.tier", tier, allowed)
    return profile.embedding_tiers[tier - 1]
