"""Shares are fair, whoever comes and goes; nobody is kept out of the batches that are open."""

from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfill.engine.state.batches import Active
from embedfill.engine.work.schedule import Schedule, Shares, Window, admitted

_BUDGET, _LINE = 10_000, 1_500
_COSTS = {"m1": 1e-4, "m2": 2e-6}  # seconds of a byte
_MODELS = tuple(_COSTS)
_MOST_S = (_BUDGET + 3 * _LINE) * max(_COSTS.values())  # of a window
_OWNERS = ("a", "b", "c")

wanting = st.dictionaries(
    st.sampled_from(_OWNERS), st.sets(st.sampled_from(_MODELS), min_size=1), min_size=1, max_size=3
)
steps = st.lists(st.tuples(wanting, st.integers(1, 12), st.integers(1, _LINE)), min_size=1, max_size=12)


def _deal(window: Window, line: int) -> None:
    """Everybody has more lines than fit."""
    while (turn := window.next()) is not None:
        owner, size = turn
        window.took(owner, -(-size // line) * line, dry=False)


def _run(schedule: Schedule, wants: dict[str, set[str]], line: int, slow: float = 1.0) -> tuple[str, dict[str, int]]:
    """One window; its model, and the bytes that each owner got. `slow`: how much longer than usual it takes."""
    model = schedule.model(wants)
    window = schedule.window(model, [owner for owner, models in wants.items() if model in models], _BUDGET)
    _deal(window, line)
    schedule.took(model, window, slow * _COSTS[model] * sum(window.served.values()))
    return model, window.served


@given(steps)
def test_those_who_are_there_together_get_the_same(script: list[Any]) -> None:
    """Over any time in which two owners both want something, however the others come and go."""
    schedule = Schedule()
    together: dict[tuple[str, str], float] = defaultdict(float)
    for wants, times, line in script:
        for _ in range(times):
            model, got = _run(schedule, wants, line)
            for one in _OWNERS:
                for other in _OWNERS:
                    if one in wants and other in wants:
                        together[one, other] += (got.get(one, 0) - got.get(other, 0)) * _COSTS[model]
                        assert abs(together[one, other]) <= 3 * _MOST_S
                    else:
                        together[one, other] = 0.0


@given(st.lists(st.floats(0.05, 20.0), min_size=40, max_size=60), st.integers(1, 500))
def test_owners_of_one_model_get_the_same_bytes_however_long_windows_take(slow: list[float], line: int) -> None:
    schedule = Schedule()
    got: dict[str, int] = defaultdict(int)
    for factor in slow:
        for owner, size in _run(schedule, {"a": {"m1"}, "b": {"m1"}}, line, factor)[1].items():
            got[owner] += size
        assert abs(got["a"] - got["b"]) <= 2 * _BUDGET


@given(st.lists(st.floats(0.5, 2.0), min_size=40, max_size=60))
def test_models_share_what_one_owner_gets(slow: list[float]) -> None:
    schedule = Schedule()
    spent = dict.fromkeys(_MODELS, 0.0)
    for factor in slow:
        model, got = _run(schedule, {"a": set(_MODELS)}, 100, factor)
        spent[model] += factor * sum(got.values()) * _COSTS[model]
        assert abs(spent["m1"] - spent["m2"]) <= 2 * _MOST_S


def test_an_owner_of_many_models_gets_no_more() -> None:
    schedule = Schedule()
    spent: dict[str, float] = defaultdict(float)
    for _ in range(40):
        model, got = _run(schedule, {"a": {"m1", "m2"}, "b": {"m1"}}, 100)
        for owner, size in got.items():
            spent[owner] += size * _COSTS[model]
    assert spent["a"] == pytest.approx(spent["b"], abs=_MOST_S)


def test_two_owners_share_one_window() -> None:
    window = Window({"a": 0.0, "b": 0.0}, _BUDGET, 1e-6)
    _deal(window, 100)
    assert window.served["a"] == pytest.approx(window.served["b"], abs=_BUDGET / 8 + 100)


def test_what_one_leaves_the_others_get() -> None:
    window = Window({"a": 0.0, "b": 0.0}, _BUDGET, 1e-6)
    window.took("a", 300, dry=True)
    _deal(window, 100)
    assert window.served == {"a": 300, "b": pytest.approx(_BUDGET - 300, abs=100)}


def test_one_owner_gets_the_whole_window_at_once() -> None:
    assert Window({"a": 7.0}, _BUDGET, 1e-6).next() == ("a", _BUDGET)


def test_nobody_saves_up_and_nobody_pays_for_time_alone() -> None:
    shares: Shares[str] = Shares()
    shares.present(["a"])
    shares.charge("a", 100.0)
    shares.present(["a", "b"])  # b was not there: it starts with a
    assert shares.order() == ["a", "b"]
    shares.charge("b", 5.0)
    shares.present(["a"])
    shares.present(["a", "b"])  # nor does going away for a moment wipe out what b had
    assert shares.first(["a", "b"]) == "a"
    shares.present([])
    shares.present(["c"])
    shares.present(["c", "a"])  # nor is what was before a time without any work held against a
    assert shares.clocks["c"] == shares.clocks["a"]


def test_those_who_left_are_forgotten() -> None:
    shares: Shares[int] = Shares()
    for key in range(1000):
        shares.present([key])
        shares.charge(key, 1.0)
    assert len(shares.clocks) < 3


def _active(seq: int, owner: str, model: str, expires_at: int) -> Active:
    return Active(seq, f"batch_{seq}", "in_progress", model, "/v1/embeddings", "file", expires_at, 1, None, owner)


batches = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from(_MODELS), st.integers(0, 5)), min_size=1, max_size=30
).map(lambda rows: [_active(seq, *row) for seq, row in enumerate(rows)])


@given(batches, st.integers(6, 10), st.sets(st.integers(0, 30)))
def test_everybody_has_a_batch_open(given_batches: list[Active], most: int, opened: set[int]) -> None:
    found = admitted(given_batches, most, lambda batch: batch.seq in opened)
    assert len(found) == min(most, len(given_batches))
    assert found == sorted(found, key=lambda batch: (batch.expires_at, batch.seq))
    for line in {(batch.owner, batch.model) for batch in given_batches}:
        own = [batch for batch in given_batches if (batch.owner, batch.model) == line]
        assert min(own, key=lambda batch: (batch.expires_at, batch.seq)) in found


def test_what_is_open_stays_open() -> None:
    many = [_active(seq, "a", "m1", 100) for seq in range(5)]
    urgent = _active(9, "a", "m1", 50)
    assert admitted([*many, urgent], 3, lambda batch: batch.seq in (3, 4)) == [urgent, many[3], many[4]]


def test_more_owners_than_may_be_open_take_turns_by_deadline() -> None:
    waiting = [_active(seq, f"owner {seq}", "m1", 100 - seq) for seq in range(10)]
    assert [batch.seq for batch in admitted(waiting, 3, lambda batch: False)] == [9, 8, 7]
