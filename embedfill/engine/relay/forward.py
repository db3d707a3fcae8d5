"""Runs batches on upstreams: a thread that takes lines, has them sent, and writes what comes. The second worker.

A request is tried again until its batch's window ends or what it is answered speaks against itself (see patience.py), then
its last error is its line. What is under way when the engine stops or dies is run again; a line that was written never is.
"""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from queue import Empty, SimpleQueue

import orjson

from embedfill.engine.relay import answers
from embedfill.engine.relay.courier import Courier
from embedfill.engine.relay.lane import Flight, Lane
from embedfill.engine.relay.limiter import Ticket
from embedfill.engine.relay.upstream import Reply, Route
from embedfill.engine.state.batches import Active, Batches
from embedfill.engine.state.spool import Result
from embedfill.engine.telemetry import logs
from embedfill.engine.work.job import Job
from embedfill.engine.work.jobs import Jobs

_LOOK_S = 1.0  # how often what is to be done is looked up without being woken
_SETTLE_S = 0.02  # results wait for others as long, to be written together
_MANY = 256  # results, that wait no longer
_CANCEL_S = 600.0  # what a cancelled batch leaves its requests under way
_OVERTIME_S = 30.0  # what an expired one does
_QUIET_S = 30.0  # between two warnings of one route

Landed = tuple[Lane, Flight, "Future[Reply]"]


class Forwarder:
    """`step` waits for something to do, for a second at most, does it, and is called by one thread only."""

    def __init__(
        self, jobs: Jobs, batches: Batches, routes: Mapping[str, Route], route_of: Callable[[Active], str | None]
    ) -> None:
        self._jobs = jobs
        self._batches = batches
        self._route_of = route_of
        self._lanes = {pattern: Lane(route) for pattern, route in routes.items()}
        self._courier = Courier()
        self._inbox: SimpleQueue[Landed | None] = SimpleQueue()  # None: look what is to be done
        self._looked_at = self._gathered_at = float("-inf")
        self._stranded: set[str] = set()  # batches without a route, of which was warned
        self._warned_at: dict[Lane, float] = {}
        self._look_due = True
        self._results: dict[str, tuple[Job, list[Result]]] = {}
        self._leaving: dict[str, float] = {}  # batches that run no more, and until when what is under way may finish
        for route in routes.values():
            route.limiter.on_change(lambda: self._inbox.put(None))

    def wake(self) -> None:
        """There may be something to do: a new batch, a cancelled one."""
        self._look_due = True
        self._inbox.put(None)

    def step(self) -> bool:
        for landed in self._arrived(self._rest_s()):
            self._land(*landed)
        self._jobs.catch_up()  # nothing is sent, and paid for, whose answer would find no room
        if self._look_due or time.monotonic() >= self._looked_at + _LOOK_S:
            self._look()
        for lane in self._lanes.values():
            while (pair := lane.next()) is not None:
                self._send(lane, *pair)
            self._look_due |= lane.ran_out()
        if self._results and (time.monotonic() >= self._gathered_at + _SETTLE_S or self._pending() >= _MANY):
            self._write()
        return True

    def close(self, grace_s: float) -> None:
        """Sends nothing more, and writes what comes within `grace_s`."""
        deadline = time.monotonic() + grace_s
        for landed in self._arrived(0.0):  # meanwhile, and paid for: also where no time is left
            self._land(*landed)
        while any(lane.sent for lane in self._lanes.values()) and (left := deadline - time.monotonic()) > 0:
            for landed in self._arrived(left):
                self._land(*landed)
        self._write()
        self._courier.close()
        self._jobs.close()

    def _rest_s(self) -> float:
        """How long there is nothing to do, if nothing comes."""
        if self._look_due:
            return 0.0
        ends = [self._looked_at + _LOOK_S]
        if self._results:
            ends.append(self._gathered_at + _SETTLE_S)
        return max(0.0, min(min(ends) - time.monotonic(), *(lane.rest_s for lane in self._lanes.values()), _LOOK_S))

    def _arrived(self, timeout_s: float) -> list[Landed]:
        """What has come back; waits for the first. Empty too where somebody woke us."""
        found: list[Landed | None] = []
        try:
            found.append(self._inbox.get(timeout=timeout_s) if timeout_s > 0 else self._inbox.get_nowait())
            while True:
                found.append(self._inbox.get_nowait())
        except Empty:
            return [landed for landed in found if landed is not None]

    def _look(self) -> None:
        """Ends batches that are due, hands the others to their lanes, and drops the requests of those that run no more."""
        self._look_due = False
        self._looked_at = time.monotonic()
        jobs: dict[str, list[Job]] = {}
        for job in self._jobs.running():
            pattern = self._route_of(job.batch)
            if pattern is None:
                self._warn_of(job)
            elif not job.exhausted:
                jobs.setdefault(pattern, []).append(job)
        for pattern, lane in self._lanes.items():
            lane.assign(jobs.get(pattern, []))
        if any(True for lane in self._lanes.values() for _flight in lane):
            self._drop_leaving()

    def _drop_leaving(self) -> None:
        cancelling = {batch.id for batch in self._batches.active() if batch.status == "cancelling"}
        leaving: dict[str, float] = {}
        for lane in self._lanes.values():
            for flight in list(lane):
                batch = flight.job.batch
                if batch.id not in cancelling and time.time() < batch.expires_at:
                    continue
                overtime_s = _CANCEL_S if batch.id in cancelling else _OVERTIME_S
                until = self._leaving.get(batch.id, time.monotonic() + overtime_s)
                leaving[batch.id] = until
                if (flight not in lane.sent or time.monotonic() >= until) and lane.drop(flight):
                    self._give_up(lane, flight, batch.id in cancelling)
        self._leaving = leaving

    def _give_up(self, lane: Lane, flight: Flight, cancelled: bool) -> None:
        """A request that had an answer in its window ends with its last error; another is written off with the rest."""
        if flight.last is not None and flight.last.came and not cancelled:
            self._keep(flight, answers.result(flight.item, flight.last, lane.route))
        else:
            flight.job.give_back(flight.item)
            self._look_due |= not flight.job.outstanding

    def _send(self, lane: Lane, flight: Flight, ticket: Ticket) -> None:
        body = orjson.dumps(lane.route.renamed(flight.item.body))
        flight.future = self._courier.send(lane.route, flight.job.batch.endpoint, body)
        flight.future.add_done_callback(partial(self._landed, lane, flight, ticket))

    def _landed(self, lane: Lane, flight: Flight, ticket: Ticket, future: "Future[Reply]") -> None:
        """Called by whichever thread the reply came in, or the request was dropped in."""
        lost = future.cancelled() or future.exception() is not None
        lane.leave(flight, ticket, None if lost else future.result())
        self._inbox.put((lane, flight, future))

    def _land(self, lane: Lane, flight: Flight, future: "Future[Reply]") -> None:
        if future.cancelled():
            return
        reply = future.result()
        if lane.landed(flight, reply):
            self._keep(flight, answers.result(flight.item, reply, lane.route))
        elif time.time() >= flight.job.batch.expires_at:
            self._look_due = True
        if reply.fate != "done":
            self._warn(lane, reply)

    def _keep(self, flight: Flight, result: Result) -> None:
        """Has a result written with the next ones."""
        if not self._results:
            self._gathered_at = time.monotonic()
        self._results.setdefault(flight.job.batch.id, (flight.job, []))[1].append(result)

    def _pending(self) -> int:
        return sum(len(results) for _job, results in self._results.values())

    def _write(self) -> None:
        for job, results in self._results.values():
            job.put(results)
            self._look_due |= not job.outstanding  # it may be at its end
        self._results.clear()

    def _warn_of(self, job: Job) -> None:
        """A batch that nobody here runs any more waits: the route may come back with the next configuration."""
        if job.batch.id not in self._stranded:
            self._stranded.add(job.batch.id)
            logs.warning("batch_without_route", id=job.batch.id, model=job.batch.model, endpoint=job.batch.endpoint)

    def _warn(self, lane: Lane, reply: Reply) -> None:
        """Tells of a route in trouble, now and then."""
        if time.monotonic() < self._warned_at.get(lane, float("-inf")) + _QUIET_S:
            return
        self._warned_at[lane] = time.monotonic()
        limiter = lane.route.limiter
        words = str((reply.body.get("error") or {}).get("message", ""))[:200]
        logs.warning(
            "upstream_trouble",
            route=lane.route.pattern,
            upstream=lane.route.settings.base_url,
            status=reply.status,
            message=words,
            at_once=limiter.window,
            hint=reply.remedy,
        )
