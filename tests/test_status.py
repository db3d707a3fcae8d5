"""Where a store stands: read off its objects, and money that is not known."""

import os
import time
from dataclasses import asdict
from typing import Any

import pytest

from embedfill import ids
from embedfill.errors import StoreError, UsageError
from embedfill.project import open_project
from embedfill.records import Claim, Outcome, Shard
from embedfill.status import standing
from embedfill.store import layout
from embedfill.store.local import LocalStore
from embedfill.tracker.maker import this_maker
from embedfill.tracker.state import reference
from tests.chain_fixtures import Chain, documents, settle


def claim_bytes(shard: Shard) -> bytes:
    """A claim of this process, without a price."""
    return ids.canonical(asdict(Claim(shard.id, 1, "file-1", 0, shard.tokens, None, this_maker(), "nonce")))


def test_a_store_without_anything_published(chain: Chain) -> None:
    open_project(chain.config())
    found = standing(chain.config())
    assert (found.snapshot, found.published, found.index, found.shards, found.batches) == ("", 0, {}, {}, 0)
    assert (found.cost_usd, found.model) == (0.0, "wordllama-256")


def test_no_store_at_all(chain: Chain) -> None:
    with pytest.raises(UsageError, match="no store"):
        standing(chain.config())
    assert not (chain.folder / "store").exists()


UNPRICED: dict[str, Any] = {
    "provider": "generic", "model": "own", "dimensions": 8, "base_url": "http://embedfill.invalid/v1",
}  # fmt: skip


def test_what_was_spent_is_a_sum_and_unknown_where_a_price_is(chain: Chain) -> None:
    chain.settings["embedding"] = UNPRICED
    open_project(chain.config())
    settle(chain, 1, [], prompt_tokens=100, cost_usd=0.25, vectors=5)
    settle(chain, 2, [], prompt_tokens=50, cost_usd=0.5, vectors=4)
    found = standing(chain.config())
    assert (found.batches, found.prompt_tokens, found.with_vectors, found.cost_usd) == (2, 150, 9, 0.75)
    settle(chain, 3, [], status="lost", cost_usd=None)  # nothing came back, nothing is known to be billed
    assert standing(chain.config()).cost_usd == 0.75
    settle(chain, 4, [], prompt_tokens=1, cost_usd=None)
    assert standing(chain.config()).cost_usd is None


def test_what_had_no_price_counts_at_the_one_known_now(chain: Chain) -> None:
    """A batch's at that of batches, the synchronous endpoint's at its own."""
    chain.settings["embedding"] = UNPRICED
    settle(chain, 1, [], prompt_tokens=100, cost_usd=0.25)
    settle(chain, 2, [], prompt_tokens=1000, cost_usd=None)
    settle(chain, 3, [], prompt_tokens=10, cost_usd=None, status="synchronous")
    priced = {**UNPRICED, "price_per_million": 1000.0}
    assert standing(chain.config(embedding=priced)).cost_usd is None
    found = standing(chain.config(embedding={**priced, "sync_price_per_million": 2000.0}, batch={"budget_usd": 5.0}))
    assert (found.cost_usd, found.left_usd) == (pytest.approx(1.27), pytest.approx(3.73))


def test_another_space_of_the_same_store_is_not_mixed_in(chain: Chain) -> None:
    chain.write(documents(range(10))).run()
    other = standing(chain.config(embedding={"model": "wordllama-256", "dimensions": 64}))
    assert (other.batches, other.with_vectors, other.shards) == (0, 0, {})
    assert (other.documents, other.published) == (10, 1)  # what is published is of the store


def test_shards_are_counted_by_state(chain: Chain) -> None:
    chain.write(documents(range(250))).run_and_die("after-claim")
    found = standing(chain.config())
    assert found.shards == {"claimed": 1, "planned": 2}
    assert (found.planned, found.in_flight, found.with_vectors) == (150, 100, 0)


def submit_one(chain: Chain, number: int, age_s: float, batch: bool = True) -> Shard:
    """Adds a claimed shard as if it had been claimed that long ago; with `batch` its batch is known."""
    project = open_project(chain.config(**REMOTE))
    shard = Shard(f"{number:032x}", f"shards/{number}", 2, 10, 1000, 5000)
    plan = {"number": number, "space": project.space.id, "shards": [asdict(shard)], "retired": []}
    project.store.create(layout.plan(project.space.id, number), ids.canonical(plan))
    claim = layout.claim(project.space.id, shard.id, 1)
    project.store.create(claim, claim_bytes(shard))
    path = project.store.local_path(claim)
    assert path is not None
    os.utime(path, (time.time() - age_s,) * 2)
    if batch:
        project.store.create(layout.batch(project.space.id, shard.id, 1), reference(f"batch-{number}"))
    return shard


REMOTE: dict[str, dict[str, Any]] = {
    "embedding": {"provider": "openai", "model": "text-embedding-3-small", "base_url": "http://embedfill.invalid/v1"},
    "batch": {"budget_usd": 1.0, "max_enqueued_tokens": 40_000, "max_enqueued_requests": 50},
}


def test_what_is_out_by_age_without_asking_the_provider(chain: Chain) -> None:
    """There is no such server, and no key."""
    for number, (hours, batch) in enumerate([(1, True), (20, True), (0, False), (19, True)], start=1):
        submit_one(chain, number, hours * 3600.0, batch)
    found = standing(chain.config(**REMOTE))
    assert [(one.id, one.near_window, round((one.age_s or 0) / 3600)) for one in found.batches_out] == [
        ("batch-2", True, 20), ("batch-4", False, 19), ("batch-1", False, 1), (None, False, 0),
    ]  # fmt: skip
    assert (found.enqueued_tokens, found.enqueued_requests, found.in_flight) == (4000, 8, 40)
    assert (found.max_enqueued_tokens, found.max_enqueued_requests, found.window) == (40_000, 50, "24h")
    assert found.in_flight_usd == pytest.approx(4000 * 0.01 / 1e6)
    assert found.left_usd == pytest.approx(1.0 - 4000 * 0.01 / 1e6)


def test_what_has_ended_is_no_longer_out(chain: Chain) -> None:
    shard = submit_one(chain, 1, 60.0)
    project = open_project(chain.config(**REMOTE))
    done = Outcome(
        shard.id, 1, "batch-1", "completed", 10, 9, 1, 990, 0.4, (), completion_tokens=7, seconds=50.0
    )  # fmt: skip
    project.store.create(layout.outcome(project.space.id, shard.id, 1), ids.canonical(asdict(done)))
    found = standing(chain.config(**REMOTE))
    assert (found.batches_out, found.enqueued_tokens, found.in_flight_usd) == ([], 0, 0.0)
    assert (found.prompt_tokens, found.completion_tokens, found.cost_usd) == (990, 7, 0.4)
    assert found.left_usd == pytest.approx(0.6)


def test_without_a_budget_nothing_is_left_and_without_a_price_nothing_is_known(chain: Chain) -> None:
    submit_one(chain, 1, 60.0)
    found = standing(chain.config(embedding=REMOTE["embedding"]))
    assert (found.budget_usd, found.left_usd, found.max_enqueued_tokens) == (None, None, None)
    assert found.in_flight_usd == pytest.approx(1000 * 0.01 / 1e6)
    unpriced = {"provider": "generic", "model": "own", "dimensions": 8, "base_url": "http://embedfill.invalid/v1"}
    project = open_project(chain.config(embedding=unpriced))
    shard = Shard("f" * 32, "shards/f", 2, 10, 1000, 5000)
    plan = {"number": 1, "space": project.space.id, "shards": [asdict(shard)], "retired": []}
    project.store.create(layout.plan(project.space.id, 1), ids.canonical(plan))
    project.store.create(layout.claim(project.space.id, shard.id, 1), claim_bytes(shard))
    assert standing(chain.config(embedding=unpriced)).in_flight_usd is None


def test_who_may_only_read_sees_it_without_ages(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    submit_one(chain, 1, 60.0)

    def create(_store: LocalStore, key: str, _data: bytes) -> bool:
        raise StoreError(f"read-only: {key}")

    monkeypatch.setattr(LocalStore, "create", create)
    (one,) = standing(chain.config(**REMOTE)).batches_out
    assert (one.id, one.age_s, one.near_window) == ("batch-1", None, False)
