"""What is kept of outcomes and references saves reading them again, and never says anything that the store does not."""

from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import orjson
import pytest

from embedfill import ids
from embedfill.errors import StoreError
from embedfill.records import Outcome, Shard
from embedfill.store import layout
from embedfill.store.base import Store
from embedfill.store.cache import Cache
from embedfill.tracker.state import State, reference

SPACE, COUNT, OPEN = "space", 90, 20


class Counting:
    """A store that tells which objects were read."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.asked: list[str] = []

    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        self.asked.append(key)
        return self._store.read(key, start, stop)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


@pytest.fixture
def fact(tmp_path: Path, tracker_store: Store) -> Path:
    """A space with settled and submitted shards, seen once; where the cache keeps what was seen."""
    shards = [Shard(f"{number:032x}", f"shards/{number}", 1, 1, 10, 100) for number in range(COUNT)]
    plan = {"number": 1, "space": SPACE, "shards": [asdict(shard) for shard in shards], "retired": []}
    tracker_store.create(layout.plan(SPACE, 1), ids.canonical(plan))
    for number, shard in enumerate(shards):
        tracker_store.create(layout.claim(SPACE, shard.id, 1), b"{}")
        tracker_store.create(layout.batch(SPACE, shard.id, 1), reference(f"batch-{number}"))
        if number >= OPEN:
            outcome = Outcome(shard.id, 1, f"batch-{number}", "completed", 1, 1, 0, 10, 0.1 * number, (f"p{number}",))
            tracker_store.create(layout.outcome(SPACE, shard.id, 1), ids.canonical(asdict(outcome)))
    look(tracker_store, tmp_path)
    return tmp_path / "cache" / "facts" / "settled" / SPACE


def look(store: Store, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """All that a process finds out, and which outcomes and references it read for that."""
    counting = Counting(store)
    state = State(counting, Cache(folder / "cache", counting), SPACE).refresh()
    seen = {
        "outcomes": state.outcomes,
        "batches": {shard.shard.id: (shard.status, shard.batch_id) for shard in state.shards.values()},
        "spent": state.spent_usd(),
    }
    return seen, [key for key in counting.asked if not key.startswith("plans/")]


def test_the_next_process_reads_nothing_again(fact: Path, tracker_store: Store, tmp_path: Path) -> None:
    again, asked = look(tracker_store, tmp_path)
    assert fact.exists() and asked == []
    anew, asked = look(tracker_store, tmp_path / "elsewhere")
    assert len(asked) == COUNT
    assert again == anew
    assert again["spent"] == pytest.approx(sum(0.1 * number for number in range(OPEN, COUNT)))


def test_only_what_is_new_is_read(fact: Path, tracker_store: Store, tmp_path: Path) -> None:
    first = f"{0:032x}"
    outcome = Outcome(first, 1, "batch-0", "expired", 1, 0, 0, 0, None, (), errors=("late",))
    key = layout.outcome(SPACE, first, 1)
    tracker_store.create(key, ids.canonical(asdict(outcome)))
    seen, asked = look(tracker_store, tmp_path)
    assert asked == [key]
    assert seen["outcomes"][key] == outcome


def _digit(data: bytes) -> bytes:
    return data.replace(b"[10,10,", b"[11,10,", 1)  # the first batch's prompt tokens


def _reference(data: bytes) -> bytes:
    return data.replace(b'"batch-3"', b'"batch-4"', 1)


def _older(data: bytes) -> bytes:
    """As a version would have kept it whose outcomes had another field last."""
    kept = orjson.loads(data)["kept"]
    kept["fields"][-1] = "other"
    return ids.canonical({"kept": kept, "digest": ids.digest_hex("kept", ids.canonical(kept))})


@pytest.mark.parametrize(
    "damage",
    [_digit, _reference, _older, lambda data: data[:-9], lambda _: b"", lambda _: b"[]", lambda _: b'{"kept":1,"digest":2}'],
    ids=["digit", "reference", "older", "cut", "empty", "list", "other"],
)  # fmt: skip
def test_a_damaged_copy_is_not_believed(
    fact: Path, tracker_store: Store, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    expected, _ = look(tracker_store, tmp_path)
    before = fact.read_bytes()
    fact.write_bytes(damage(before))
    assert fact.read_bytes() != before
    seen, asked = look(tracker_store, tmp_path)
    assert seen == expected and len(asked) == COUNT
    assert fact.read_bytes() == before


def test_what_the_store_does_not_list_does_not_stand(fact: Path, tracker_store: Store, tmp_path: Path) -> None:
    """A store that was brought back from an older backup has lost its newest outcomes: so it is seen."""
    lost = layout.outcome(SPACE, f"{COUNT - 1:032x}", 1)
    tracker_store.delete(lost)
    tracker_store.delete(layout.batch(SPACE, f"{1:032x}", 1))
    seen, _ = look(tracker_store, tmp_path)
    assert lost not in seen["outcomes"] and len(seen["outcomes"]) == COUNT - OPEN - 1
    assert seen["batches"][f"{1:032x}"][1] is None


def test_who_may_not_write_here_sees_the_same(fact: Path, tracker_store: Store, tmp_path: Path) -> None:
    expected, _ = look(tracker_store, tmp_path)
    (tmp_path / "elsewhere").write_bytes(b"no folder")
    assert look(tracker_store, tmp_path / "elsewhere")[0] == expected


@pytest.mark.parametrize("data", [b'{"shard":"x"}', b"{", b'{"packs":[],"errors":[],"later":1}'])
def test_an_outcome_that_cannot_be_read_is_named(tracker_store: Store, tmp_path: Path, data: bytes) -> None:
    key = layout.outcome(SPACE, "x", 1)
    tracker_store.create(key, data)
    with pytest.raises(StoreError, match=key):
        look(tracker_store, tmp_path)


def test_every_field_of_an_outcome_is_kept(tracker_store: Store, tmp_path: Path) -> None:
    for number in range(COUNT):
        outcome = Outcome(
            f"{number:032x}", 2, None, "failed", 9, 5, 4, 10, None, ("p1", "p2"), "refusals", {"odd": number}, ("a b", "c"),
            7, 1.5,
        )  # fmt: skip
        assert all(getattr(outcome, field.name) != field.default for field in fields(Outcome))
        tracker_store.create(layout.outcome(SPACE, outcome.shard, 2), ids.canonical(asdict(outcome)))
    first, asked = look(tracker_store, tmp_path)
    assert len(asked) == COUNT
    assert look(tracker_store, tmp_path) == (first, [])
