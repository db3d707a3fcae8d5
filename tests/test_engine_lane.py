"""A lane and its limiter in virtual time: lines that a server never answers well, beside others, and through outages."""

import heapq
import random
from collections.abc import Callable, Iterable
from itertools import count

import httpx
import pytest

from embedfill.engine.relay.lane import Flight, Lane
from embedfill.engine.relay.limiter import Limiter, Ticket
from embedfill.engine.relay.upstream import Reply, Route
from embedfill.engine.relay.waiting import Waiting
from embedfill.engine.settings import RouteSettings
from embedfill.engine.state.batches import Active
from embedfill.engine.work.job import Item, Job

CHAT = "/v1/chat/completions"
HOUR_S = 3600.0
GOOD_S, BAD_S = 0.08, 0.01  # how long the server takes to answer, and to refuse
_seq = count(1)

Answer = Callable[[str, float], Reply]


def reply(status: int = 200, garbled: bool = False, **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, {}, b"", httpx.Headers(named), garbled=garbled)


class Lines(Job):
    """A job of these lines, with nothing on disk."""

    def __init__(self, texts: Iterable[str], owner: str = "", model: str = "gpt-test") -> None:
        seq = next(_seq)
        self.batch = Active(seq, f"batch_{seq}", "in_progress", model, CHAT, "file", 10**10, 1, None, owner)
        self.exhausted, self.outstanding = False, 0
        self._rest = (Item(line, text, {"model": model}, 100) for line, text in enumerate(texts))
        self._returned = []


class World:
    """A server, and what became of each line: when it ended, and with which status."""

    def __init__(self, answer: Answer, concurrency: int = 4) -> None:
        self.now = 0.0
        self.answer = answer
        route = Route("gpt*", RouteSettings(base_url="http://127.0.0.1:9", concurrency=concurrency))
        route.limiter = Limiter(concurrency, now=lambda: self.now)
        self.lane = Lane(route, lambda: self.now)
        self.tries = 0
        self.good_s = GOOD_S
        self.ended: dict[str, tuple[float, int]] = {}
        self._coming: list[tuple[float, int, Flight, Ticket, Reply]] = []

    def run(self, *jobs: Job, until_s: float = 24 * HOUR_S) -> None:
        self.lane.assign(list(jobs))
        while self.now < until_s and (self._send() or self._coming or any(True for _flight in self.lane)):
            lands_at = self._coming[0][0] if self._coming else until_s
            self.now = min(lands_at, max(self.now + self.lane.rest_s, self.now + 1e-6))
            while self._coming and self._coming[0][0] <= self.now:
                self._land(*heapq.heappop(self._coming)[2:])

    def statuses(self, start: str) -> list[int]:
        return [status for text, (_at, status) in self.ended.items() if text.startswith(start)]

    def last_at(self, start: str) -> float:
        """When the last of them ended."""
        return max(at for text, (at, _status) in self.ended.items() if text.startswith(start))

    def _send(self) -> bool:
        sent = False
        while (pair := self.lane.next()) is not None:
            flight, ticket = pair
            answer = self.answer(flight.item.custom_id, self.now)
            lands_at = self.now + (self.good_s if answer.status == 200 else BAD_S)
            heapq.heappush(self._coming, (lands_at, self.tries, flight, ticket, answer))
            self.tries += 1
            sent = True
        return sent

    def _land(self, flight: Flight, ticket: Ticket, answer: Reply) -> None:
        self.lane.leave(flight, ticket, answer)
        if self.lane.landed(flight, answer):
            assert flight.item.custom_id not in self.ended
            self.ended[flight.item.custom_id] = (self.now, answer.status)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(1)


def texts(name: str, number: int) -> list[str]:
    return [f"{name} {nth}" for nth in range(number)]


def poisoned(text: str, _now: float) -> Reply:
    return reply(500 if text.startswith("poison") else 200)


@pytest.mark.parametrize("place", [0, 25, 50])
def test_one_line_that_a_server_cannot_answer_ends_within_minutes(place: int) -> None:
    world = World(poisoned)
    lines = texts("good", 50)
    lines.insert(place, "poison")
    world.run(Lines(lines))
    assert world.statuses("good") == [200] * 50 and world.last_at("good") < 10
    assert world.statuses("poison") == [500] and 60 <= world.last_at("poison") < 240
    assert world.tries < 75


def test_where_nobody_is_answered_a_line_has_an_hour() -> None:
    world = World(poisoned)
    world.run(Lines(texts("poison", 3)))
    assert world.statuses("poison") == [500] * 3 and HOUR_S <= world.last_at("poison") < 1.2 * HOUR_S


def test_lines_that_fail_leave_another_key_its_share() -> None:
    alone = World(poisoned)
    alone.run(Lines(texts("good", 4000), "bob"))
    beside = World(poisoned)
    beside.run(Lines(texts("poison", 40), "ada"), Lines(texts("good", 4000), "bob"))
    assert beside.last_at("good") < 1.25 * alone.last_at("good")
    assert beside.statuses("poison") == [500] * 40 and beside.last_at("poison") < 300


def test_lines_that_fail_end_as_soon_where_the_others_are_through() -> None:
    world = World(poisoned)
    world.run(Lines(texts("poison", 40)), Lines(texts("good", 400)))
    assert world.last_at("good") < 20 and world.last_at("poison") < 300


def test_lines_that_fail_do_not_hold_those_behind_them() -> None:
    world = World(poisoned)
    world.run(Lines([*texts("poison", 40), *texts("good", 200)]))
    assert world.statuses("good") == [200] * 200 and world.statuses("poison") == [500] * 40
    assert world.last_at("poison") < 2 * HOUR_S


def test_an_outage_of_everything_that_ends_costs_no_line() -> None:
    world = World(lambda _text, now: reply(500 if 5 < now < 605 else 200))
    world.run(*(Lines(texts(f"owner {owner}", 300), f"owner {owner}") for owner in range(3)))
    assert world.statuses("owner") == [200] * 900 and world.last_at("owner") < 700
    assert world.tries < 1100  # and the server was left alone


def test_a_long_outage_costs_few_lines() -> None:
    world = World(lambda _text, now: reply(500 if 5 < now < 5 + 5 * HOUR_S else 200))
    world.run(Lines(texts("line", 2000)))
    assert world.statuses("line").count(200) > 1900


def test_a_model_that_is_down_loses_no_line_while_another_works() -> None:
    world = World(lambda text, now: reply(500 if text.startswith("down") and now < 600 else 200))
    world.run(Lines(texts("down", 500), model="gpt-large"), Lines(texts("up", 10_000), model="gpt-small"))
    assert world.statuses("down") == [200] * 500
    assert world.last_at("up") < 1.25 * 10_000 / 4 * GOOD_S + 20


def test_a_busy_server_costs_no_line() -> None:
    """Two of three are refused, for five hours."""
    world = World(lambda _text, now: reply(503 if int(now * 1000) % 3 else 200))
    world.run(Lines(texts("line", 2000)))
    assert world.statuses("line") == [200] * 2000


def test_a_line_that_is_always_too_much_ends_and_stops_the_others_no_more() -> None:
    def answer(text: str, _now: float) -> Reply:
        return reply(429, retry_after="10") if text == "huge" else reply()

    world = World(answer)
    world.good_s = 4.0
    world.run(Lines(["huge"], "ada"), Lines(texts("good", 5000), "bob"))
    assert world.statuses("huge") == [429] and HOUR_S <= world.last_at("huge") < 1.2 * HOUR_S
    assert world.last_at("good") < 5000 / 4 * 4.0 + 120  # a few pauses, before it was known


def test_a_success_of_which_nothing_can_be_made_is_paid_three_times_at_most() -> None:
    world = World(lambda _text, _now: reply(502, garbled=True))
    world.run(Lines(texts("page", 5)))
    assert world.statuses("page") == [502] * 5 and world.tries == 15


def test_no_answer_is_tried_until_the_window_ends() -> None:
    silence = Reply(502, {}, b"", httpx.Headers(), came=False)
    world = World(lambda _text, _now: silence)
    world.run(Lines(texts("line", 10)))
    assert not world.ended and world.now == 24 * HOUR_S


def test_what_waits_is_counted_by_whose_it_is() -> None:
    waiting: Waiting[str] = Waiting()
    for due, whose, thing in [(3.0, "a", "late"), (1.0, "b", "first"), (1.0, "a", "second"), (2.0, "b", "gone")]:
        waiting.add(due, whose, thing)
    waiting.remove("gone")
    assert waiting.of == {"a": 2, "b": 1} and waiting.due_at == 1.0
    assert [waiting.pop(2.5) for _ in range(3)] == ["first", "second", None]
    assert list(waiting) == ["late"] and waiting.of == {"a": 1}
