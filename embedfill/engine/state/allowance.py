"""What an account may have, enforced on request: a run can be rehearsed under a provider's limits before it is paid for.

Without limits, the usual case, nothing is counted. Knows batches by their rows; does not end any.
"""

import sqlite3
import time
from dataclasses import dataclass, replace

from embedfill.batchapi.limits import LOCAL, OPENAI, Limits
from embedfill.batchapi.models import BatchError
from embedfill.engine.settings import LimitSettings
from embedfill.errors import ConfigError, RefusedError
from embedfill.providers.profiles import PROFILES

_NONE = "none"
_TIERS = PROFILES["openai"].embedding_tiers
_HOUR_S = 3_600
_RELEASE_S = 60  # a tier's counters forget what has ended 1 to 10 minutes late; this is the least
_OVERRIDES = ("enqueued_requests", "batches_per_hour", "batch_requests", "batch_inputs", "request_tokens")
_ENDED_AT = "coalesce(completed_at, expired_at, cancelled_at)"  # of a batch that was enqueued


@dataclass(frozen=True, slots=True)
class Allowance:
    """Limits of each key. `enqueued_tokens`: prompt tokens of one model, waiting or running at once; the tiers are those
    of embedding models, and hold for every model here. `counts_inputs`: whether `limits.batch_inputs` holds.
    `release_delay_s`: how long a batch that has ended still counts."""

    limits: Limits = LOCAL
    enqueued_tokens: int | None = None
    counts_inputs: bool = False
    release_delay_s: int = 0

    def check_rate(self, connection: sqlite3.Connection, owner: str) -> None:
        """Part of the change that creates a batch. Raises RefusedError (429) where this hour has had its batches."""
        most = self.limits.batches_per_hour
        if most is None:
            return
        now = int(time.time())
        query = "SELECT created_at FROM batches WHERE created_at > ? AND owner = ? ORDER BY created_at DESC LIMIT 1 OFFSET ?"
        last = connection.execute(query, (now - _HOUR_S, owner, most - 1)).fetchone()
        if last is not None:
            message = f"Rate limit reached: {most:,} batches an hour. Please try again later."
            wait = float(max(1, last["created_at"] + _HOUR_S - now))
            raise RefusedError(429, "rate_limit_exceeded", message, retry_after_s=wait)

    def overrun(
        self, connection: sqlite3.Connection, owner: str, model: str, requests: int, tokens: int
    ) -> BatchError | None:
        """Part of the change that accepts a batch: why it does not fit beside what is enqueued, if it does not."""
        most_requests = self.limits.enqueued_requests
        if self.enqueued_tokens is None and most_requests is None:
            return None
        held_requests, held_tokens = self._enqueued(connection, owner, model)
        if self.enqueued_tokens is not None and held_tokens + tokens > self.enqueued_tokens:
            return _over("token", model, self.enqueued_tokens)
        if most_requests is not None and held_requests + requests > most_requests:
            return _over("request", model, most_requests)
        return None

    def _enqueued(self, connection: sqlite3.Connection, owner: str, model: str) -> tuple[int, int]:
        """Requests and prompt tokens of the model's batches that have not ended, or not long ago."""
        query = "SELECT coalesce(sum(total), 0), coalesce(sum(enqueued_tokens), 0) FROM batches WHERE owner = ? AND model = ?"
        held = connection.execute(
            f"{query} AND status IN ('in_progress', 'finalizing', 'cancelling')",
            (owner, model),
        ).fetchone()
        if not self.release_delay_s:
            return held[0], held[1]
        late = connection.execute(
            f"{query} AND status IN ('completed', 'expired', 'cancelled') AND {_ENDED_AT} > ?",
            (owner, model, int(time.time()) - self.release_delay_s),
        ).fetchone()
        return held[0] + late[0], held[1] + late[1]


UNLIMITED = Allowance()


def allowance_of(settings: LimitSettings) -> Allowance:
    """Raises ConfigError for a name that is not known."""
    known = {_NONE: UNLIMITED} | {
        f"openai-tier-{tier}": Allowance(OPENAI, tokens, counts_inputs=True, release_delay_s=_RELEASE_S)
        for tier, tokens in enumerate(_TIERS, 1)
    }
    if settings.like not in known:
        raise ConfigError("engine.limits", settings.like, f"known are {', '.join(known)}")
    base = known[settings.like]
    changed = {name: value for name in _OVERRIDES if (value := getattr(settings, name)) is not None}
    return Allowance(
        replace(base.limits, **changed),
        settings.enqueued_tokens or base.enqueued_tokens,
        base.counts_inputs or settings.batch_inputs is not None,
        base.release_delay_s if settings.release_delay_s is None else settings.release_delay_s,
    )


def _over(what: str, model: str, most: int) -> BatchError:
    """One code for both: what a client does about them is the same. The API's for requests is not documented."""
    message = (
        f"Enqueued {what} limit reached for {model}. Limit: {most:,} enqueued {what}s. "
        "Please try again once some in_progress batches have been completed."
    )
    return BatchError(code="token_limit_exceeded", message=message)
