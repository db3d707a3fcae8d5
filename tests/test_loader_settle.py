"""An ended batch to its outcome: what the outcome refers to is there before it, and settling again gives the same."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest

from embedfill import ids
from embedfill.batchapi.lines import custom_id
from embedfill.batchapi.models import Batch
from embedfill.loader.packs import read_pack
from embedfill.loader.settle import Settler
from embedfill.records import Outcome, Refusal, Shard
from embedfill.store import layout
from embedfill.store.cache import Cache
from embedfill.store.memory import MemoryStore
from embedfill.tracker.plan import refused
from embedfill.tracker.shards import Packed, shard_record, write_shard
from embedfill.tracker.state import ShardState

SPACE, DIMENSIONS = "space", 4
TEXTS = [f"text {number}" for number in range(10)]
PER_REQUEST = 4  # requests of 4, 4 and 2 texts


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def settler(store: MemoryStore, tmp_path: Path) -> Settler:
    return Settler(store, Cache(tmp_path / "cache", store), SPACE, DIMENSIONS, 2.0)


@pytest.fixture
def state(store: MemoryStore, tmp_path: Path) -> ShardState:
    rows = [(number // PER_REQUEST, ids.text_id(text), text, 3) for number, text in enumerate(TEXTS)]
    packed = Packed(rows, requests=3, tokens=30, file_bytes=500)
    shard = shard_record(packed, SPACE, 1)
    write_shard(packed, tmp_path / "shard.parquet")
    store.put_file(shard.key, tmp_path / "shard.parquet")
    return ShardState(shard, attempt=2, batch_id="batch_1")


def batch(status: str = "completed", **more: Any) -> Batch:
    return Batch(id="batch_1", input_file_id="f", status=status, **{"created_at": 1, **more})


def vector(number: int) -> list[float]:
    return [float(number + 1), 0.0, 0.5, -1.0]


def success(shard: Shard, request: int, **changed: Any) -> dict[str, Any]:
    """A result line; `changed` gives other embeddings by position (`_1=...`)."""
    first = request * PER_REQUEST
    items = [{"index": at, "embedding": vector(first + at)} for at in range(len(TEXTS[first : first + PER_REQUEST]))]
    for name, value in changed.items():
        items[int(name[1:])]["embedding"] = value
    body = {"data": items, "usage": {"prompt_tokens": 5, "total_tokens": 5}}
    return {"custom_id": custom_id(shard.id, request), "response": {"status_code": 200, "body": body}, "error": None}


def failure(shard: Shard, request: int) -> dict[str, Any]:
    body = {"error": {"code": "bad", "message": "no such thing"}}
    return {"custom_id": custom_id(shard.id, request), "response": {"status_code": 400, "body": body}, "error": None}


def file(folder: Path, lines: list[dict[str, Any]]) -> list[Path]:
    (folder / "out.jsonl").write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    return [folder / "out.jsonl"]


def keys(store: MemoryStore, prefix: str) -> list[str]:
    return [entry.key for entry in store.list(prefix)]


def scratch(settler: Settler) -> list[Path]:
    return [path for path in (settler.cache.root / "scratch").rglob("*") if path.is_file()]


def test_a_whole_batch(settler: Settler, state: ShardState, store: MemoryStore, tmp_path: Path) -> None:
    lines = [success(state.shard, request) for request in (2, 0, 1)]
    outcome = settler(state, batch(), file(tmp_path, lines))
    (pack,) = outcome.packs
    assert outcome == Outcome(state.shard.id, 2, "batch_1", "completed", 10, 10, 0, 15, 15 * 2.0 / 1e6, (pack,))
    (tmp_path / "pack.parquet").write_bytes(store.read(pack))
    found = {
        name: row for names, rows in read_pack(tmp_path / "pack.parquet") for name, row in zip(ids.tolist(names), rows)
    }
    assert {name: row.tolist() for name, row in found.items()} == {
        ids.text_id(text): vector(number) for number, text in enumerate(TEXTS)
    }
    beside = np.frombuffer(store.read(layout.pack_ids(pack)), "S16")
    assert ids.tolist(beside) == sorted(ids.text_id(text) for text in TEXTS)
    assert pack == layout.pack(SPACE, ids.file_digest(tmp_path / "pack.parquet"))
    assert pq.read_metadata(tmp_path / "pack.parquet").num_rows == 10
    assert (keys(store, "refusals/"), scratch(settler)) == ([], [])


def test_settling_again_gives_the_same_and_adds_nothing(
    settler: Settler, state: ShardState, store: MemoryStore, tmp_path: Path
) -> None:
    files = file(tmp_path, [success(state.shard, 1), failure(state.shard, 0), {"odd": 1}])
    first = settler(state, batch(), files)
    held = keys(store, "")
    assert settler(state, batch(), files) == first
    assert keys(store, "") == held


@pytest.mark.parametrize("status", ["failed", "cancelled", "expired"])
def test_a_batch_without_files_has_an_outcome_without_packs(
    settler: Settler, state: ShardState, store: MemoryStore, status: str
) -> None:
    words = {"data": [{"code": "token_limit_exceeded", "message": "too many"}] * 50}
    outcome = settler(state, batch(status, errors=words), [])
    assert (outcome.status, outcome.vectors, outcome.packs, outcome.refusals) == (status, 0, (), None)
    assert (outcome.prompt_tokens, outcome.cost_usd) == (0, 0.0)
    assert outcome.errors == ("token_limit_exceeded: too many",) * 20
    assert keys(store, "packs/") == []


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        (None, 10), ({"input_tokens": 0}, 10), ({"input_tokens": 12, "total_tokens": 12}, 12),
    ],
)  # fmt: skip
def test_tokens_are_the_batchs_word_else_the_sum_of_its_lines(
    settler: Settler, state: ShardState, tmp_path: Path, usage: dict[str, int] | None, tokens: int
) -> None:
    files = file(tmp_path, [success(state.shard, 0), success(state.shard, 1)])
    outcome = settler(state, batch(usage=usage), files)
    assert (outcome.prompt_tokens, outcome.cost_usd) == (tokens, tokens * 2.0 / 1e6)
    assert replace(settler, price_per_million=None)(state, batch(usage=usage), files).cost_usd is None


@pytest.mark.parametrize(
    ("lines", "usage", "tokens", "anomalies"),
    [
        ([None, None], None, 24, {"usage_missing": 2}),  # two requests of four texts of three tokens
        ([None, {"prompt_tokens": 5}], None, 17, {"usage_missing": 1}),
        ([{"prompt_tokens": 0}, {"total_tokens": 6}], {"input_tokens": 0}, 18, {"usage_missing": 1}),
        ([None, None], {"input_tokens": 11}, 11, {}),
    ],
)  # fmt: skip
def test_what_nobody_says_the_cost_of_is_counted_by_ourselves(
    settler: Settler, state: ShardState, tmp_path: Path, lines: list[Any], usage: Any, tokens: int, anomalies: Any
) -> None:
    given = [success(state.shard, 0, _1=None), success(state.shard, 1)]  # one vector is of no use; it was paid
    for line, said in zip(given, lines, strict=True):
        line["response"]["body"]["usage"] = said
    outcome = settler(state, batch(usage=usage), file(tmp_path, [*given, failure(state.shard, 2)]))
    assert (outcome.prompt_tokens, outcome.cost_usd) == (tokens, tokens * 2.0 / 1e6)
    assert outcome.anomalies == {"bad_vector": 1, **anomalies}


def test_the_spending_agrees_with_the_lines_or_says_so(settler: Settler, state: ShardState, tmp_path: Path) -> None:
    files = file(tmp_path, [success(state.shard, 0), success(state.shard, 1)])
    assert settler(state, batch(usage={"input_tokens": 10}), files).anomalies == {}
    assert settler(state, batch(usage={"input_tokens": 12}), files).anomalies == {"usage_differs": 1}
    assert settler(state, batch(usage={"input_tokens": 12}), []).anomalies == {}  # lines that say nothing


@pytest.mark.parametrize(
    ("stamps", "seconds"),
    [
        ({}, None),
        ({"completed_at": 1_000_600}, 600.0),
        ({"expired_at": 1_086_400, "finalizing_at": 1_000_700}, 86_400.0),
        ({"cancelled_at": 1_000_005, "cancelling_at": 1_000_001}, 5.0),
        ({"failed_at": 1_000_000}, 0.0),
        ({"completed_at": 999_999}, None),
        ({"created_at": 0, "completed_at": 1_000_600}, None),
    ],
)
def test_how_long_it_took_is_the_providers_word(
    settler: Settler, state: ShardState, stamps: dict[str, int], seconds: float | None
) -> None:
    assert settler(state, batch(**{"created_at": 1_000_000, **stamps}), []).seconds == seconds


@pytest.mark.parametrize(
    "counts",
    [None, {}, {"total": 3, "completed": 0, "failed": 0}, {"total": 1, "completed": 9, "failed": 9}, {"total": None}],
)
def test_counts_that_do_not_add_up_and_another_models_name_change_nothing(
    settler: Settler, state: ShardState, tmp_path: Path, counts: dict[str, Any] | None
) -> None:
    """The lines tell what there is. Servers name the model in their own words, with a date or a path."""
    lines = [success(state.shard, request) for request in range(3)]
    for line, name in zip(lines, ("another-model", None, 7), strict=True):
        line["response"]["body"]["model"] = name
    outcome = settler(state, batch(request_counts=counts, model="another-model"), file(tmp_path, lines))
    assert (outcome.vectors, outcome.refused, outcome.anomalies) == (10, 0, {})


def test_refusals_and_odd_lines_are_one_object_beside_the_outcome(
    settler: Settler, state: ShardState, store: MemoryStore, tmp_path: Path
) -> None:
    lines = [failure(state.shard, 2), success(state.shard, 0, _1=None), {"custom_id": "foreign"}]
    outcome = settler(state, batch(), file(tmp_path, lines))
    assert (outcome.vectors, outcome.refused) == (3, 2)
    assert outcome.anomalies == {"bad_vector": 1, "foreign_custom_id": 1}
    assert outcome.refusals is not None
    held = orjson.loads(store.read(outcome.refusals))
    found = [Refusal(**value) for value in held["refusals"]]
    assert {(one.text_id, one.code, one.alone) for one in found} == {
        (ids.text_id(TEXTS[8]).hex(), "bad", False),
        (ids.text_id(TEXTS[9]).hex(), "bad", False),
        (ids.text_id(TEXTS[1]).hex(), "bad_vector", True),
    }
    assert len(held["odd_lines"]) == 2
    assert orjson.dumps(asdict(outcome))


def test_a_text_whose_vector_never_makes_sense_becomes_a_rejection(
    settler: Settler, state: ShardState, store: MemoryStore, tmp_path: Path
) -> None:
    """Else it would go out again at every run, and nothing would ever be published."""
    found: list[Refusal] = []
    for _ in range(3):
        outcome = settler(state, batch(), file(tmp_path, [success(state.shard, 0, _2=[0.0] * 4)]))
        assert outcome.refused == 0
        found += [Refusal(**value) for value in orjson.loads(store.read(str(outcome.refusals)))["refusals"]]
    (rejection,) = refused(found, max_attempts=3).rejected.values()
    assert (rejection.code, rejection.text_id) == ("bad_vector", ids.text_id(TEXTS[2]).hex())
    assert refused(found[:2], max_attempts=3).rejected == {}


def test_a_batch_that_brought_nothing_says_what_was_odd(settler: Settler, state: ShardState, tmp_path: Path) -> None:
    lines = [success(state.shard, 0, **{f"_{at}": [1.0] * 3 for at in range(4)})]
    outcome = settler(state, batch(), file(tmp_path, lines))
    assert outcome.errors == ("wrong_dimensions (4)",)
    assert outcome.refusals is not None  # the odd line is kept


@pytest.mark.parametrize("point", ["after-decode", "between-ids-and-pack", "before-refusals"])
def test_a_stop_in_the_middle_leaves_nothing_half_done(
    settler: Settler, state: ShardState, store: MemoryStore, tmp_path: Path, point: str
) -> None:
    def stop(at: str) -> None:
        if at == point:
            raise KeyboardInterrupt

    files = file(tmp_path, [success(state.shard, request) for request in range(3)])
    with pytest.raises(KeyboardInterrupt):
        replace(settler, at=stop)(state, batch(), files)
    assert scratch(settler) == []
    assert all(layout.pack_ids(pack) in keys(store, "") for pack in keys(store, "packs/") if pack.endswith(".parquet"))
    assert settler(state, batch(), files).vectors == 10


def test_requests_are_the_shards_rows(settler: Settler, state: ShardState) -> None:
    found = settler.requests(state.shard)
    assert (len(found), found.starts, found.shard) == (3, [0, 4, 8, 10], state.shard.id)
    assert ids.tolist(found.ids_of(2)) == [ids.text_id(text) for text in TEXTS[8:]]
