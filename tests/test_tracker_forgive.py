"""Refusals taken back: counted per text, the largest number wins, and nothing is ever removed."""

import pytest

from embedfill import ids
from embedfill.tracker import forgive as module
from embedfill.tracker.forgive import forgive, forgiven, forgiven_keys
from embedfill.tracker.plan import refused_in
from tests.tracker_fixtures import SPACE, Tracker, texts_of

A, B = ids.text_id("a"), ids.text_id("b")


def test_nothing_is_forgiven_at_first(tracker: Tracker) -> None:
    assert (forgiven(tracker.state), forgiven_keys(tracker.state)) == ({}, [])
    forgive(tracker.state, {})
    assert forgiven_keys(tracker.state) == []


def test_the_same_again_is_the_same_object(tracker: Tracker) -> None:
    for state in (tracker.state, tracker.again().state):
        forgive(state, {A: 3, B: 1})
    assert len(forgiven_keys(tracker.state)) == 1
    assert forgiven(tracker.again().state) == {A: 3, B: 1}


def test_the_largest_number_of_each_text_counts(tracker: Tracker) -> None:
    """In whatever order two places write what they know."""
    for counts in ({A: 3, B: 1}, {A: 2, B: 4}, {B: 2}):
        forgive(tracker.state, counts)
    assert forgiven(tracker.state) == {A: 3, B: 4}


def test_another_space_is_not_forgiven(tracker: Tracker) -> None:
    forgive(tracker.state, {A: 1})
    tracker.state.space = SPACE + "-2"
    assert forgiven(tracker.state) == {}


def test_very_many_are_split_among_objects(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TEXTS", 4)
    counts = {ids.text_id(text): number for number, text in enumerate(texts_of(10), 1)}
    forgive(tracker.state, counts)
    assert len(forgiven_keys(tracker.state)) == 3
    assert forgiven(tracker.state) == counts


@pytest.mark.parametrize("max_attempts", [1, 2, 4])
def test_forgiven_texts_go_out_once_more_and_alone(tracker: Tracker, max_attempts: int) -> None:
    """First to a provider that still refuses one of them, then to one that takes it."""
    texts = texts_of(12)
    tracker.provider.refuses = {texts[2], texts[9]}
    tracker.embed(texts, max_attempts=max_attempts)
    sent = len(tracker.provider.texts_sent())
    tracker.provider.refuses = {texts[9]}
    found = refused_in(tracker.state, max_attempts)
    forgive(tracker.state, {text_id: found.counts[text_id] for text_id in found.rejected})
    assert refused_in(tracker.state, max_attempts).rejected == {}
    (shard,) = tracker.plan(texts, max_attempts)
    assert (shard.texts, shard.requests) == (2, 2)
    tracker.embed(texts, max_attempts=max_attempts)
    assert sorted(tracker.provider.texts_sent()[sent:]) == sorted([texts[2], *[texts[9]] * max_attempts])
    assert list(refused_in(tracker.state, max_attempts).rejected) == [ids.text_id(texts[9])]
    assert len(tracker.vectors()) == 11
