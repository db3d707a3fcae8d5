"""What is still to be embedded: want minus have, refusals and what follows from them, and planners that race."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfill import ids
from embedfill.ids import IdSet
from embedfill.records import Refusal
from embedfill.store import layout
from embedfill.tracker.plan import missing, refused
from embedfill.tracker.shards import shard_ids
from tests.provider_fixtures import vector
from tests.tracker_fixtures import SPACE, Tracker, texts_of, wanted


def planned_texts(tracker: Tracker) -> list[bytes]:
    """Ids of the texts of all plans, in order."""
    tracker.state.refresh()
    keys = [state.shard.key for state in tracker.state.shards.values()]
    return [one for key in keys for one in ids.tolist(shard_ids(tracker.account.cache.path(key))[0])]


def id_list(texts: list[str]) -> list[bytes]:
    return [ids.text_id(text) for text in texts]


def refusal(text: str, inputs: int, message: str = "words") -> Refusal:
    return Refusal(ids.text_id(text).hex(), "code", message, inputs)


def test_everything_is_missing_at_first_and_nothing_is_planned_twice(tracker: Tracker) -> None:
    texts = texts_of(25)
    shards = tracker.plan(texts)
    assert [shard.texts for shard in shards] == [10, 10, 5]
    assert planned_texts(tracker) == id_list(texts)
    assert tracker.plan(texts) == []
    assert tracker.again().plan(texts) == []


def test_only_what_is_new_is_planned(tracker: Tracker) -> None:
    tracker.plan(texts_of(10))
    (shard,) = tracker.again().plan([*texts_of(3, start=10), *texts_of(10)])
    assert shard.texts == 3


def test_equal_texts_are_sent_once(tracker: Tracker) -> None:
    tracker.plan(["a", "b", "a", *texts_of(20), "b"])
    assert Counter(planned_texts(tracker)).most_common(1)[0][1] == 1
    assert len(planned_texts(tracker)) == 22


def test_what_has_a_vector_is_not_wanted_again(tracker: Tracker) -> None:
    tracker.embed(texts_of(12))
    assert tracker.plan(texts_of(12)) == []
    assert [shard.texts for shard in tracker.plan(texts_of(13))] == [1]


def test_what_came_back_short_is_planned_again(tracker: Tracker) -> None:
    texts = texts_of(12)
    tracker.provider.absent = {texts[0]}
    tracker.plan(texts)
    tracker.advance()
    (shard,) = tracker.plan(texts)
    assert shard.texts == 5  # the whole request that the text was in
    tracker.provider.absent = set()
    tracker.embed(texts)
    assert {text_id: found[0] for text_id, found in tracker.vectors().items()} == {
        ids.text_id(text): vector(text).tolist() for text in texts
    }


def test_a_plan_is_written_down_whole(tracker: Tracker) -> None:
    shards = tracker.plan(texts_of(12))
    plan = orjson.loads(tracker.account.store.read(layout.plan(SPACE, 1)))
    assert [one["id"] for one in plan["shards"]] == [shard.id for shard in shards]
    assert (plan["number"], plan["space"], plan["retired"]) == (1, SPACE, [])
    tracker.plan(texts_of(13))
    assert tracker.keys("plans/") == [layout.plan(SPACE, 1), layout.plan(SPACE, 2)]


def test_an_empty_plan_is_not_written(tracker: Tracker) -> None:
    assert tracker.plan([]) == []
    assert tracker.keys("") == []


@given(st.lists(st.sampled_from("abcdefgh"), max_size=30), st.sets(st.sampled_from("abcdefgh")), st.integers(1, 9))
def test_missing_is_want_minus_blocked_each_once_in_order(want: list[str], have: set[str], at_once: int) -> None:
    blocked = IdSet(ids.array(sorted(id_list(list(have)))))
    found = [text for batch in missing(wanted(want, at_once)(), blocked) for text in batch.column("text").to_pylist()]
    assert found == [text for text in dict.fromkeys(want) if text not in have]
    assert len(blocked) == len(have | set(want))


def test_who_loses_the_race_for_a_plan_computes_anew(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other planner commits while we pack: same number, other texts."""
    other, raced = tracker.again(), []
    create = tracker.account.store.create

    def race(key: str, data: bytes) -> bool:
        if key == layout.plan(SPACE, 1) and not raced:
            raced.append(other)
            assert other.plan(texts_of(15))
        return create(key, data)

    monkeypatch.setattr(tracker.account.store, "create", race)
    (shard,) = tracker.plan(texts_of(15, start=5))
    assert shard.texts == 5 and tracker.state.plans == 2
    assert planned_texts(tracker) == id_list([*texts_of(15), *texts_of(5, start=15)])
    assert planned_texts(other) == planned_texts(tracker)


def test_the_same_plan_of_two_is_one(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tracker.again()
    mine, create = [], tracker.account.store.create

    def race(key: str, data: bytes) -> bool:
        if key == layout.plan(SPACE, 1) and not mine:
            mine.append(other)
            other.plan(texts_of(15))
        return create(key, data)

    monkeypatch.setattr(tracker.account.store, "create", race)
    tracker.plan(texts_of(15))
    assert tracker.keys("plans/") == [layout.plan(SPACE, 1)]
    assert planned_texts(tracker) == id_list(texts_of(15))


def test_planners_at_once_plan_every_text_once(tracker: Tracker) -> None:
    planners = [tracker.again() for _ in range(4)]
    start = threading.Barrier(len(planners))
    wants = [texts_of(40, start=15 * number) for number in range(len(planners))]

    def plan(number: int) -> None:
        start.wait()
        planners[number].plan(wants[number])

    with ThreadPoolExecutor(len(planners)) as pool:
        list(pool.map(plan, range(len(planners))))
    found = planned_texts(tracker)
    assert sorted(found) == sorted(id_list(texts_of(85)))


@pytest.mark.parametrize(
    ("refusals", "max_attempts", "rejected", "suspect"),
    [
        ([], 3, "", {}),
        ([("a", 5)], 1, "", {"a": 1}),
        ([("a", 1)], 1, "a", {"a": 1}),
        ([("a", 5), ("a", 1)], 2, "a", {"a": 1}),
        ([("a", 5), ("a", 5)], 2, "", {"a": 1}),
        ([("a", 5), ("a", 1)], 3, "", {"a": 1}),
        ([("a", 5), ("a", 1), ("a", 1)], 3, "a", {"a": 1}),
        ([("a", 5), ("b", 5), ("a", 1)], 2, "a", {"a": 1, "b": 1}),
        ([("a", 100)], 1, "", {"a": 10}),
        ([("a", 10), ("a", 100)], 1, "", {"a": 1}),
        ([("a", 2048)], 3, "", {"a": 205}),
        ([("a", 2048), ("a", 205)], 2, "", {"a": 21}),
        ([("a", 2048), ("a", 205), ("a", 21)], 3, "", {"a": 3}),
        ([("a", 2048), ("a", 205), ("a", 21), ("a", 3)], 3, "", {"a": 1}),
        ([("a", 2048), ("a", 205), ("a", 21), ("a", 3), ("a", 1)], 3, "a", {"a": 1}),
    ],
)
def test_a_text_is_rejected_for_its_own_fault_only(
    refusals: list[tuple[str, int]], max_attempts: int, rejected: str, suspect: dict[str, int]
) -> None:
    found = refused([refusal(text, inputs) for text, inputs in refusals], max_attempts)
    assert sorted(found.rejected) == sorted(id_list(list(rejected)))
    assert found.suspect == {ids.text_id(text): inputs for text, inputs in suspect.items()}


@given(st.integers(1, 2048), st.integers(1, 9))
def test_a_bad_text_ends_alone_and_rejected_whatever_the_tries(inputs: int, max_attempts: int) -> None:
    tries = [inputs]
    while not (found := refused([refusal("a", size) for size in tries], max_attempts)).rejected:
        tries.append(found.suspect[ids.text_id("a")])
    assert tries[-1] == 1 and len(tries) <= max(max_attempts, 5)
    assert all(after <= -(-before // 10) for before, after in pairwise(tries))


def test_what_is_forgiven_does_not_count_but_goes_out_alone() -> None:
    refusals = [refusal("a", inputs) for inputs in (100, 10, 1)]
    found = refused(refusals, 3, {ids.text_id("a"): 3})
    assert (found.rejected, found.suspect) == ({}, {ids.text_id("a"): 1})
    assert refused([*refusals, *[refusal("a", 1)] * 2], 3, {ids.text_id("a"): 3}).rejected == {}
    assert list(refused([*refusals, *[refusal("a", 1)] * 3], 3, {ids.text_id("a"): 3}).rejected) == id_list(["a"])


def test_a_rejection_keeps_the_words_that_were_about_it_alone() -> None:
    found = refused([refusal("a", 1, "too odd"), refusal("a", 5, "one of these is odd")], 2)
    rejection = found.rejected[ids.text_id("a")]
    assert (rejection.code, rejection.message, rejection.text_id) == ("code", "too odd", ids.text_id("a").hex())


@pytest.mark.parametrize("max_attempts", [1, 2, 3])
def test_one_bad_text_is_found_and_its_neighbours_are_saved(tracker: Tracker, max_attempts: int) -> None:
    texts, bad = texts_of(23), {"text number 4", "text number 17"}
    tracker.provider.refuses = set(bad)
    tracker.embed(texts, max_attempts=max_attempts)
    assert set(tracker.vectors()) == {ids.text_id(text) for text in texts if text not in bad}
    found = refused(tracker.state.refusals(), max_attempts)
    assert set(found.rejected) == {ids.text_id(text) for text in bad}
    assert {one.message for one in found.rejected.values()} == {"this text is refused"}
    sent = Counter(tracker.provider.texts_sent())
    assert all(sent[text] == max(2, max_attempts) for text in bad)
    assert max(count for text, count in sent.items() if text not in bad) == 2


def test_odd_texts_come_back_as_themselves(tracker: Tracker) -> None:
    texts = [
        " ", "\u2028", "a\u2029b", "\u0085", "a\0b", "\x1f\x7f", "<|endoftext|>", "[SEP]", "\ufffd", "\ufeffa", "e\u0301",
        "\u00e9", "\U0001f600" * 3, '"\\', "\r\n", "x" * 100_000,
    ]  # fmt: skip
    tracker.embed([*texts, *texts[::-1]])
    assert sorted(tracker.provider.texts_sent()) == sorted(texts)
    assert tracker.vectors() == {ids.text_id(text): [vector(text).tolist()] for text in texts}


def test_suspected_texts_go_out_alone(tracker: Tracker) -> None:
    texts = texts_of(5)
    tracker.provider.refuses = {texts[2]}
    tracker.plan(texts)
    tracker.advance()
    (shard,) = tracker.plan([*texts, *texts_of(5, start=5)])
    assert (shard.texts, shard.requests) == (10, 6)


@pytest.mark.parametrize("max_attempts", [1, 3])
def test_a_large_refused_request_is_narrowed_by_tens(tracker: Tracker, max_attempts: int) -> None:
    """One bad text of 100: ten requests of ten, then ten of one. Not a hundred requests, and no good text lost."""
    texts, packing = texts_of(150), {"inputs_per_request": 100, "max_inputs": 150}
    tracker.provider.refuses = {texts[7]}
    requests = []
    for _ in range(4):
        requests += [shard.requests for shard in tracker.plan(texts, max_attempts, **packing)]
        tracker.advance()
    assert requests == [2, 10, 10]
    assert len(tracker.vectors()) == 149
    assert list(refused(tracker.state.refusals(), max_attempts).rejected) == id_list([texts[7]])


def test_planning_leaves_no_scratch_behind(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(type(tracker.account.store), "put_file", fail)
    with pytest.raises(OSError, match="full"):
        tracker.plan(texts_of(5))
    assert list(tracker.account.cache.scratch("shards").iterdir()) == []
    assert tracker.keys("plans/") == []
