"""How many requests a server behind the engine gets at once, and a minute: fewer while it is in trouble. Sends none.

Concurrency adapts as TCP's does: a round of answers adds one, trouble halves it, once for all that were under way. Rates
are buckets that refill steadily, so that no minute holds more than was allowed. Any thread may call.
"""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

# fine: it answered. trouble: 429, 5xx, no answer. blocked: it wants money, or another key. dropped: nothing was learned.
Outcome = Literal["fine", "trouble", "blocked", "dropped"]

_BURST = 20  # a bucket holds a minute's 20th
_PATIENCE = 3  # troubles in a row before requests of batches rest
_REST_S = (0.5, 30.0)
_BLOCKED_S = (60.0, 900.0)
_ASKED_S = 3600.0  # what a server may ask us to wait, at most
_SOON_S = 0.001
_RUN = 3  # urgent requests, then one of a batch where one waits
_WAITS_S = 2.0  # one that was refused is believed to wait for as long: it asks again each second
_GLANCE_S = 0.01  # between two looks of an urgent request whether the batches' turn was taken


@dataclass(frozen=True, slots=True)
class Ticket:
    """A request under way: how often the window was halved before it, and the tokens it was thought to cost."""

    era: int
    tokens: int


class Bucket:
    """At most `per_minute` of something within any minute. A single cost above what the bucket holds goes into debt."""

    def __init__(self, per_minute: int, unit: int, now: float) -> None:
        """`unit`: the least cost, which the bucket holds in any case."""
        self._holds = max(float(unit), per_minute / _BURST)
        self._rate = max(per_minute + unit - self._holds, unit) / 60.0
        self._level = self._holds
        self._at = now

    def wait_s(self, cost: float, now: float) -> float:
        """Seconds until `cost` may be taken."""
        self._refill(now)
        lacking = min(cost, self._holds) - self._level
        return lacking / self._rate if lacking > 1e-9 else 0.0

    def take(self, cost: float) -> None:
        self._level = min(self._level - cost, self._holds)

    def _refill(self, now: float) -> None:
        self._level = min(self._holds, self._level + max(0.0, now - self._at) * self._rate)
        self._at = max(self._at, now)


class Limiter:
    """`concurrency` is what it may grow to, and where it starts."""

    def __init__(
        self,
        concurrency: int,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._now = now
        self._most = concurrency
        self._window = float(concurrency)
        self._requests = Bucket(requests_per_minute, 1, now()) if requests_per_minute else None
        self._tokens = Bucket(tokens_per_minute, 0, now()) if tokens_per_minute else None
        self._dearest = tokens_per_minute or math.inf  # nobody knows more of a request that may cost more than a minute
        self._lock = threading.Lock()
        self._listeners: list[Callable[[], None]] = []
        self.under_way = 0
        self._urgent = 0  # that wait for their turn
        self._run = 0  # of urgent ones that went since one of a batch did
        self._refused_at = -math.inf  # one of a batch, that could go but for others
        self._era = 0
        self._troubles = 0  # in a row
        self._asked_until = -math.inf  # the server's wish: holds for all
        self._rests_until = -math.inf  # our own: an urgent request may find out whether it is over

    @property
    def window(self) -> int:
        """How many requests may be under way now."""
        return int(self._window)

    @property
    def troubled(self) -> bool:
        """Whether the latest that was heard of the server is no good."""
        return self._troubles > 0

    @property
    def pause_s(self) -> float:
        """Seconds for which the server asked to be left alone."""
        return max(0.0, self._asked_until - self._now())

    def on_change(self, listener: Callable[[], None]) -> None:
        """Has `listener` called when a request has left, or no longer waits urgently, by the thread that it did so in."""
        with self._lock:
            self._listeners = [*self._listeners, listener]

    def off_change(self, listener: Callable[[], None]) -> None:
        with self._lock:
            self._listeners = [known for known in self._listeners if known != listener]

    @contextmanager
    def urgently(self) -> Iterator[None]:
        """Within this, requests that are not urgent get every fourth turn only."""
        with self._lock:
            self._urgent += 1
        try:
            yield
        finally:
            with self._lock:
                self._urgent -= 1
                listeners = self._listeners
            for listener in listeners:
                listener()

    def enter(self, tokens: int, urgent: bool = False) -> Ticket | float:
        """A ticket where a request may go now; else the seconds until it may be worth asking again, infinite where only
        another's leaving can help."""
        with self._lock:
            now, tokens = self._now(), int(min(tokens, self._dearest))
            wait = self._wait_s(tokens, urgent, now)
            if wait > 0:
                return max(wait, _SOON_S)
            self.under_way += 1
            self._run = self._run + 1 if urgent else 0
            self._refused_at = self._refused_at if urgent else -math.inf
            self._spend(1, tokens)
            return Ticket(self._era, tokens)

    def leave(
        self, ticket: Ticket, outcome: Outcome, tokens: int | None = None, retry_after_s: float | None = None
    ) -> None:
        """A request is over. `tokens`: what it really cost, where that is known."""
        with self._lock:
            self.under_way -= 1
            if tokens is not None:
                self._spend(0, tokens - ticket.tokens)
            if retry_after_s is not None and outcome == "trouble":
                self._asked_until = max(self._asked_until, self._now() + min(retry_after_s, _ASKED_S))
            self._learn(ticket, outcome)
            listeners = self._listeners
        for listener in listeners:
            listener()

    def _wait_s(self, tokens: int, urgent: bool, now: float) -> float:
        waits = [self._asked_until - now] if urgent else [self._asked_until - now, self._rests_until - now]
        if not urgent and max(waits) <= 0:
            self._refused_at = now  # unless it goes
        if self.under_way >= int(self._window) or (not urgent and self._urgent and self._run < _RUN):
            return math.inf
        if urgent and self._run >= _RUN and now < self._refused_at + _WAITS_S:
            waits.append(_GLANCE_S)
        if self._requests is not None:
            waits.append(self._requests.wait_s(1, now))
        if self._tokens is not None:
            waits.append(self._tokens.wait_s(tokens, now))
        return max(0.0, *waits)

    def _spend(self, requests: int, tokens: int) -> None:
        if self._requests is not None:
            self._requests.take(requests)
        if self._tokens is not None:
            self._tokens.take(tokens)

    def _learn(self, ticket: Ticket, outcome: Outcome) -> None:
        if outcome == "fine":
            self._troubles = 0
            self._rests_until = -math.inf
            self._window = min(self._most, self._window + 1 / self._window)
        elif outcome != "dropped" and ticket.era == self._era:  # others of the same moment say nothing new
            self._era += 1
            self._troubles += 1
            self._window = max(1.0, self._window / 2)
            self._rests_until = self._now() + self._rest_s(outcome)

    def _rest_s(self, outcome: Outcome) -> float:
        """Doubled by each trouble in a row."""
        if outcome == "blocked":
            least, most = _BLOCKED_S
            return float(min(most, least * 2 ** min(self._troubles - 1, 30)))
        least, most = _REST_S
        return (
            float(min(most, least * 2 ** min(self._troubles - _PATIENCE, 30))) if self._troubles >= _PATIENCE else 0.0
        )
