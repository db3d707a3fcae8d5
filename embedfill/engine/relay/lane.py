"""The requests of batches that go one route: which goes next, which waits to be tried again. Sends none itself.

New requests and those tried before take turns, so that neither keeps the other out; each also finds out whether a server
in trouble works again.
"""

import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

from embedfill.engine.relay import answers
from embedfill.engine.relay.limiter import Ticket
from embedfill.engine.relay.patience import Trials, is_busy
from embedfill.engine.relay.upstream import Reply, Route
from embedfill.engine.relay.waiting import Waiting
from embedfill.engine.work.job import Item, Job
from embedfill.engine.work.schedule import Shares

_BACKOFF_S = (0.5, 60.0)
_KEPT = 256  # requests of one batch that wait to be tried again, at least, before no new one of it is taken
_KNOWN = 4  # tries that a busy server refused while others were answered: then it is about the request

Kind = tuple[str | None, str]  # a model and an endpoint


@dataclass(slots=True, eq=False)
class Flight:
    """One request from when it is taken to its line. `last` is the latest reply; `seen` and `peers_seen` are what the
    lane, and what requests of its kind, had been answered when it last failed, at first when it was sent. `suspect`:
    others were answered after it had failed, so it is its own fault rather than the server's when it does again."""

    job: Job
    item: Item
    tokens: int
    tries: int = 0
    trials: Trials = field(default_factory=Trials)
    seen: int = 0
    peers_seen: int = 0
    suspect: bool = False
    last: Reply | None = None
    future: Future[Reply] | None = field(default=None, repr=False)


class Lane:
    """Used by one thread only, but for `leave`."""

    def __init__(self, route: Route, now: Callable[[], float] = time.monotonic) -> None:
        self.route = route
        self.jobs: list[Job] = []  # that may have requests left
        self.sent: set[Flight] = set()
        self._now = now
        self._waiting: Waiting[Flight] = Waiting()
        self._held: Flight | None = None  # goes next, once the limiter lets it
        self._retried = False  # the latest one to go was tried before
        self._answered = 0
        self._peers: Counter[Kind] = Counter()  # answered, of each kind
        self._owners: Shares[str] = Shares()
        self._models: Shares[tuple[str, str | None]] = Shares()
        self._most = max(_KEPT, 2 * route.settings.concurrency)
        self._ran_out = False
        self.rest_s = math.inf  # until `next` may give one again

    def __iter__(self) -> Iterator[Flight]:
        yield from self.sent
        yield from self._waiting
        if self._held is not None:
            yield self._held

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
        """A request that may be sent now."""
        flight = self._held = self._held or self._chosen()
        if flight is None:
            self.rest_s = max(0.0, self._waiting.due_at - self._now())
            return None
        ticket = self.route.limiter.enter(flight.tokens)
        if isinstance(ticket, float):
            self.rest_s = ticket
            return None
        self._held = None
        self._retried = flight.tries > 0
        if not flight.tries:
            self._note(flight)
        flight.tries += 1
        self.sent.add(flight)
        return flight, ticket

    def leave(self, flight: Flight, ticket: Ticket, reply: Reply | None) -> None:
        """Its request is over; None: broken off by us. Called by any thread, and before `landed`."""
        limiter = self.route.limiter
        if reply is None:
            limiter.leave(ticket, "dropped")
        elif flight.suspect and reply.fate == "again" and (not is_busy(reply) or flight.trials.busy >= _KNOWN):
            limiter.leave(ticket, "dropped")  # nothing that others should be slowed down for
        else:
            limiter.leave(ticket, reply.outcome, answers.cost(reply), reply.retry_after_s)

    def landed(self, flight: Flight, reply: Reply) -> bool:
        """Whether this reply is the last; else the request waits to be sent again."""
        self.sent.discard(flight)
        flight.last = reply
        if reply.fate == "done":
            self._answered += 1
            self._peers[_kind(flight)] += 1
            return True
        now, wait_s = self._now(), 0.0
        if reply.fate == "again":
            peers = self._peers[_kind(flight)]
            if flight.trials.over(reply, now, peers, peers > flight.peers_seen):
                return True
            self._note(flight)
            wait_s = max(_backoff_s(flight.tries), min(reply.retry_after_s or 0.0, _BACKOFF_S[1]))
        self._waiting.add(now + wait_s, flight.job.batch.id, flight)
        return False

    def drop(self, flight: Flight) -> bool:
        """Gives a request up. False where its reply is on its way to us already."""
        if flight in self.sent:
            if flight.future is None or not flight.future.cancel():
                return False
            self.sent.discard(flight)
        elif flight is self._held:
            self._held = None
        else:
            self._waiting.remove(flight)
        return True

    def _chosen(self) -> Flight | None:
        """One that was tried before, or a new one, by turns."""
        if self._retried:
            return self._fresh() or self._due()
        return self._due() or self._fresh()

    def _due(self) -> Flight | None:
        """One that was tried before. It is charged again: the route is used again."""
        flight = self._waiting.pop(self._now())
        if flight is not None:
            flight.suspect |= self._answered > flight.seen
            self._charge(flight)
        return flight

    def _fresh(self) -> Flight | None:
        """A request of who used the route least: keys first, then models, then the nearest deadline."""
        while jobs := [job for job in self.jobs if self._waiting.of[job.batch.id] < self._most]:
            job = self._turn(jobs)
            item = job.take()
            if item is None:
                self.jobs.remove(job)
                self._ran_out |= not job.outstanding
                continue
            flight = Flight(job, item, answers.estimate(item.body, item.size))
            self._charge(flight)
            return flight
        return None

    def _turn(self, jobs: list[Job]) -> Job:
        """Whose turn it is: the owner's, then the model's that got least of the route, then the nearest deadline's. In
        trouble one of which the fewest wait: it is the likeliest to be answered."""
        if self.route.limiter.troubled:
            fewest = min(self._waiting.of[job.batch.id] for job in jobs)
            jobs = [job for job in jobs if self._waiting.of[job.batch.id] == fewest]
        owner = self._owners.first({job.batch.owner for job in jobs})
        line = self._models.first({_line(job) for job in jobs if job.batch.owner == owner})
        theirs = (job for job in jobs if _line(job) == line)
        return min(theirs, key=lambda job: (job.batch.expires_at, job.batch.seq))

    def _note(self, flight: Flight) -> None:
        flight.seen, flight.peers_seen = self._answered, self._peers[_kind(flight)]

    def _charge(self, flight: Flight) -> None:
        """Who wants nothing new any more is charged nothing either."""
        owner, line = flight.job.batch.owner, _line(flight.job)
        if owner in self._owners.clocks and line in self._models.clocks:
            self._owners.charge(owner, flight.tokens)
            self._models.charge(line, flight.tokens)


def _line(job: Job) -> tuple[str, str | None]:
    return job.batch.owner, job.batch.model


def _kind(flight: Flight) -> Kind:
    return flight.job.batch.model, flight.job.batch.endpoint


def _backoff_s(tries: int) -> float:
    least, most = _BACKOFF_S
    return min(most, least * 2.0 ** min(tries - 1, 30)) * random.uniform(0.5, 1.0)  # noqa: S311 - not a secret
