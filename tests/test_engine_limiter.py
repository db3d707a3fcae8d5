"""The limiter in virtual time: concurrency that adapts, rates that no minute exceeds, pauses that are kept."""

import math
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfill.engine.relay.limiter import Bucket, Limiter, Outcome, Ticket


@dataclass
class Time:
    at: float = 1000.0

    def now(self) -> float:
        return self.at


@dataclass
class Limited:
    """A limiter in virtual time, and what is under way."""

    concurrency: int = 8
    requests: int | None = None
    tokens: int | None = None
    time: Time = field(default_factory=Time)

    def __post_init__(self) -> None:
        self.limiter = Limiter(self.concurrency, self.requests, self.tokens, self.time.now)

    def enter(self, tokens: int = 1, urgent: bool = False) -> Ticket:
        ticket = self.limiter.enter(tokens, urgent)
        assert isinstance(ticket, Ticket)
        return ticket

    def wait(self, tokens: int = 1, urgent: bool = False) -> float:
        wait = self.limiter.enter(tokens, urgent)
        assert isinstance(wait, float)
        return wait

    def fill(self) -> list[Ticket]:
        """As many as may go."""
        tickets = []
        while isinstance(ticket := self.limiter.enter(1), Ticket):
            tickets.append(ticket)
        return tickets

    def round(self, outcome: Outcome) -> int:
        """All that may go go, and come back a second later; how many they were."""
        tickets = self.fill()
        self.time.at += 1.0
        for ticket in tickets:
            self.limiter.leave(ticket, outcome)
        return len(tickets)


def test_no_more_than_the_concurrency_are_under_way() -> None:
    limited = Limited(3)
    tickets = limited.fill()
    assert len(tickets) == 3 and limited.wait() == math.inf
    limited.limiter.leave(tickets[0], "fine")
    assert len(limited.fill()) == 1


def test_trouble_halves_once_for_all_that_were_under_way() -> None:
    limited = Limited(16)
    assert [limited.round("trouble") for _ in range(2)] == [16, 8]
    assert limited.limiter.window == 4


def test_a_round_of_answers_adds_about_one_up_to_the_concurrency() -> None:
    limited = Limited(8)
    limited.round("trouble")
    sizes = [limited.round("fine") for _ in range(8)]
    assert sizes[0] == 4 and sizes[-1] == 8
    assert all(0 <= after - before <= 1 for before, after in pairwise(sizes))


def test_what_we_broke_off_says_nothing_about_the_server() -> None:
    limited = Limited(4)
    assert [limited.round("dropped") for _ in range(3)] == [4, 4, 4]


def test_troubles_in_a_row_rest_longer_and_longer_but_not_for_ever() -> None:
    limited, rests = Limited(1), []
    for _ in range(16):
        limited.limiter.leave(limited.enter(), "trouble")
        ticket = limited.limiter.enter(1)
        rests.append(0.0 if isinstance(ticket, Ticket) else ticket)
        if isinstance(ticket, Ticket):
            limited.limiter.leave(ticket, "dropped")
        limited.time.at += rests[-1] + 0.01
    assert rests[:5] == pytest.approx([0, 0, 0.5, 1, 2]) and rests[-1] == 30.0


def test_an_urgent_request_may_find_out_whether_a_rest_is_over() -> None:
    limited = Limited(1)
    for _ in range(4):
        limited.limiter.leave(limited.enter(urgent=True), "trouble")
        limited.time.at += 0.01
    assert limited.wait() > 0
    limited.limiter.leave(limited.enter(urgent=True), "fine")
    limited.enter()


def test_retry_after_holds_for_everybody() -> None:
    limited = Limited(2)
    limited.limiter.leave(limited.enter(), "trouble", retry_after_s=7.0)
    assert limited.wait() == pytest.approx(7.0) and limited.wait(urgent=True) == pytest.approx(7.0)
    assert limited.limiter.pause_s == pytest.approx(7.0)
    limited.time.at += 7.0
    limited.enter()


def test_a_wish_to_wait_for_a_year_is_not_granted() -> None:
    limited = Limited(2)
    limited.limiter.leave(limited.enter(), "trouble", retry_after_s=3e7)
    assert limited.wait() == pytest.approx(3600.0)


def test_a_blocked_account_is_left_alone_for_minutes_and_asked_by_urgent_requests() -> None:
    limited = Limited(2)
    limited.limiter.leave(limited.enter(), "blocked")
    assert limited.wait() == pytest.approx(60.0)
    limited.time.at += 61.0
    limited.limiter.leave(limited.enter(urgent=True), "blocked")
    assert limited.wait() == pytest.approx(120.0)
    for _ in range(9):
        limited.time.at += 1000.0
        limited.limiter.leave(limited.enter(), "blocked")
    assert limited.wait() == pytest.approx(900.0)


def test_urgent_requests_go_first() -> None:
    limited = Limited(1)
    ticket = limited.enter()
    with limited.limiter.urgently():
        limited.limiter.leave(ticket, "fine")
        assert limited.wait() == math.inf  # for it is somebody else's turn
        limited.limiter.leave(limited.enter(urgent=True), "fine")
    limited.enter()


@pytest.mark.parametrize("concurrency", [1, 4])
def test_urgent_requests_without_end_leave_every_fourth_turn_to_batches(concurrency: int) -> None:
    limited, went = Limited(concurrency), ""
    under_way: list[Ticket] = []
    with limited.limiter.urgently():  # some wait all the time
        for _ in range(400):
            for urgent in (True, False):  # and are the quicker ones
                while isinstance(ticket := limited.limiter.enter(1, urgent), Ticket):
                    under_way.append(ticket)
                    went += "u" if urgent else "b"
            limited.time.at += 0.1
            limited.limiter.leave(under_way.pop(0), "fine")
    assert went.count("b") == pytest.approx(len(went) / 4, rel=0.05) and "bb" not in went[concurrency:]


def test_urgent_requests_wait_for_no_batch_that_does_not_come() -> None:
    limited = Limited(1)
    for _ in range(10):
        limited.limiter.leave(limited.enter(urgent=True), "fine")
    held = limited.enter(urgent=True)
    assert limited.wait() == math.inf  # it would like to
    limited.limiter.leave(held, "fine")
    assert 0 < limited.wait(urgent=True) < 0.1
    limited.time.at += 2.0
    limited.enter(urgent=True)


def test_urgent_requests_need_not_wait_for_batches_that_rest() -> None:
    limited = Limited(1)
    for _ in range(4):
        limited.limiter.leave(limited.enter(urgent=True), "trouble")
    assert limited.wait() == pytest.approx(1.0)
    limited.enter(urgent=True)


def test_who_listens_is_told_when_a_place_is_free() -> None:
    limited, told = Limited(1), []
    limited.limiter.on_change(lambda: told.append(limited.limiter.under_way))
    limited.limiter.leave(limited.enter(), "fine")
    with limited.limiter.urgently():
        pass
    assert told == [0, 0]


def test_usage_corrects_what_was_thought_of_a_request() -> None:
    limited = Limited(8, tokens=6000)  # holds 300
    ticket = limited.enter(300)
    assert limited.wait(300) > 0
    limited.limiter.leave(ticket, "fine", tokens=10)
    limited.enter(290)
    limited.limiter.leave(limited.enter(0), "fine", tokens=3000)  # 10 were left
    assert limited.wait(1) == pytest.approx(2991 / 95, rel=0.01)  # 5,700 a minute above the burst


def test_a_request_dearer_than_a_minute_is_sent_all_the_same() -> None:
    limited = Limited(8, tokens=60)
    limited.enter(10_000)
    assert limited.wait(1) > 60


def test_a_request_that_may_cost_a_thousand_minutes_stops_the_others_for_one() -> None:
    limited = Limited(8, tokens=60)
    limited.limiter.leave(limited.enter(60_000), "fine")  # refused, as it happens
    assert limited.wait(1) < 70


@given(
    st.integers(1, 200),
    st.lists(st.tuples(st.floats(0, 20), st.integers(1, 4)), max_size=150),
)
def test_no_minute_holds_more_requests_than_allowed(per_minute: int, steps: list[tuple[float, int]]) -> None:
    limited, sent = Limited(1000, requests=per_minute), []
    for pause_s, tries in steps:
        limited.time.at += pause_s
        for _ in range(tries * 20):
            if isinstance(limited.limiter.enter(1), Ticket):
                sent.append(limited.time.at)
    assert all(_within(sent, start) <= per_minute for start in set(sent))


@given(st.integers(100, 100_000), st.data())
def test_no_minute_holds_more_tokens_than_allowed(per_minute: int, data: st.DataObject) -> None:
    limited = Limited(10_000, tokens=per_minute)
    spent: list[tuple[float, int]] = []
    for pause_s in data.draw(st.lists(st.floats(0, 15), max_size=25)):
        limited.time.at += pause_s
        cost = data.draw(st.integers(1, max(1, per_minute // 20)))
        while isinstance(limited.limiter.enter(cost), Ticket):
            spent.append((limited.time.at, cost))
    for start in {at for at, _cost in spent}:
        assert sum(cost for at, cost in spent if start <= at < start + 59.999) <= per_minute * 1.000001


@given(st.integers(1, 10_000), st.sampled_from((0, 1)), st.lists(st.floats(0.1, 1000), min_size=1, max_size=30))
def test_whoever_waits_as_long_as_told_may_go(per_minute: int, unit: int, costs: list[float]) -> None:
    bucket, now = Bucket(per_minute, unit, 0.0), 0.0
    for cost in costs:
        now += bucket.wait_s(cost, now) + 1e-6
        assert bucket.wait_s(cost, now) <= 1e-3
        bucket.take(cost)


@given(st.integers(1, 64), st.lists(st.sampled_from(("fine", "trouble", "blocked", "dropped", "enter")), max_size=200))
def test_places_are_neither_lost_nor_made(concurrency: int, events: list[str]) -> None:
    limited, under_way = Limited(concurrency), []
    for event in events:
        limited.time.at += 1.0
        if event == "enter":
            ticket = limited.limiter.enter(1)
            under_way += [ticket] if isinstance(ticket, Ticket) else []
        elif under_way:
            limited.limiter.leave(under_way.pop(0), event)  # type: ignore[arg-type]
        assert limited.limiter.under_way == len(under_way) <= concurrency
        assert 1 <= limited.limiter.window <= concurrency
    for ticket in under_way:
        limited.limiter.leave(ticket, "fine")
    limited.time.at += 10_000
    limited.enter()


def _within(times: list[float], start: float) -> int:
    return sum(start <= at < start + 59.999 for at in times)
