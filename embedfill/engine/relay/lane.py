"""The requests of batches that go one route: which goes next, which waits to be tried again. Sends none itself."""

import heapq
import math
import random
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import count

from embedfill.engine.relay import answers
from embedfill.engine.relay.limiter import Ticket
from embedfill.engine.relay.upstream import Reply, Route
from embedfill.engine.work.job import Item, Job
from embedfill.engine.work.schedule import Shares

_TRIES = 8  # in vain, while the route worked for others: then it is the request's own fault
_BACKOFF_S = (0.5, 60.0)
_KEPT = 16  # requests that wait to be tried again, at least, before no new one is taken


@dataclass(slots=True, eq=False)
class Flight:
    """One request from when it is taken to its line. `last` is the latest reply, `vain` how many tries count against
    it."""

    job: Job
    item: Item
    tokens: int
    tries: int = 0
    vain: int = 0
    seen: int = 0  # what the lane had answered when it was last tried
    last: Reply | None = None
    future: Future[Reply] | None = field(default=None, repr=False)


class Lane:
    """Used by one thread only."""

    def __init__(self, route: Route) -> None:
        self.route = route
        self.jobs: list[Job] = []  # that may have requests left
        self.sent: set[Flight] = set()
        self._waiting: list[tuple[float, int, Flight]] = []  # a heap of when, order, what
        self._order = count()
        self._answered = 0
        self._owners: Shares[str] = Shares()
        self._models: Shares[tuple[str, str | None]] = Shares()
        self._most = max(_KEPT, 2 * route.settings.concurrency)
        self._ran_out = False
        self.rest_s = math.inf  # until `next` may give one again

    def __iter__(self) -> Iterator[Flight]:
        yield from self.sent
        yield from (flight for _due, _order, flight in self._waiting)

    def assign(self, jobs: list[Job]) -> None:
        """The jobs that go this way now."""
        self.jobs = jobs
        self._owners.present({job.batch.owner for job in jobs})
        self._models.present({_line(job) for job in jobs})

    def ran_out(self) -> bool:
        """Whether a job was found to have nothing left, not even under way, since this was last asked."""
        found, self._ran_out = self._ran_out, False
        return found

    def next(self) -> tuple[Flight, Ticket] | None:
        """A request that may be sent now: one that was tried before rather than a new one."""
        now = time.monotonic()
        flight = self._due(now) or self._fresh()
        if flight is None:
            self.rest_s = max(0.0, self._waiting[0][0] - now) if self._waiting else math.inf
            return None
        ticket = self.route.limiter.enter(flight.tokens)
        if isinstance(ticket, float):
            self._wait(flight, now)
            self.rest_s = ticket
            return None
        flight.tries += 1
        flight.seen = self._answered
        self.sent.add(flight)
        return flight, ticket

    def landed(self, flight: Flight, reply: Reply) -> bool:
        """Whether this reply is the last; else the request waits to be sent again."""
        self.sent.discard(flight)
        flight.last = reply
        if reply.fate == "done":
            self._answered += 1
            return True
        if reply.fate == "again" and reply.status != 429:
            flight.vain += self._answered > flight.seen
            if flight.vain >= _TRIES:
                return True
        self._wait(flight, time.monotonic() + (_backoff_s(flight.tries) if reply.fate == "again" else 0.0))
        return False

    def drop(self, flight: Flight) -> bool:
        """Gives a request up. False where its reply is on its way to us already."""
        if flight in self.sent:
            if flight.future is None or not flight.future.cancel():
                return False
            self.sent.discard(flight)
        else:
            self._waiting = [entry for entry in self._waiting if entry[2] is not flight]
            heapq.heapify(self._waiting)
        return True

    def _wait(self, flight: Flight, due: float) -> None:
        heapq.heappush(self._waiting, (due, next(self._order), flight))

    def _due(self, now: float) -> Flight | None:
        return heapq.heappop(self._waiting)[2] if self._waiting and self._waiting[0][0] <= now else None

    def _fresh(self) -> Flight | None:
        """A request of who used the route least: keys first, then models, then the nearest deadline."""
        while self.jobs and len(self._waiting) < self._most:
            job = self._turn()
            item = job.take()
            if item is None:
                self.jobs.remove(job)
                self._ran_out |= not job.outstanding
                continue
            tokens = answers.estimate(item.body, item.size)
            self._owners.charge(job.batch.owner, tokens)
            self._models.charge(_line(job), tokens)
            return Flight(job, item, tokens)
        return None

    def _turn(self) -> Job:
        """Whose turn it is: the owner's, then the model's that got least of the route, then the nearest deadline's."""
        owner = self._owners.first({job.batch.owner for job in self.jobs})
        line = self._models.first({_line(job) for job in self.jobs if job.batch.owner == owner})
        theirs = (job for job in self.jobs if _line(job) == line)
        return min(theirs, key=lambda job: (job.batch.expires_at, job.batch.seq))


def _line(job: Job) -> tuple[str, str | None]:
    return job.batch.owner, job.batch.model


def _backoff_s(tries: int) -> float:
    least, most = _BACKOFF_S
    return min(most, least * 2.0 ** min(tries - 1, 30)) * random.uniform(0.5, 1.0)  # noqa: S311 - not a secret
