"""`embedfill plan`: what a run would send and cost, before and after one; nothing is sent."""

import shutil
from typing import Any

import pytest

from embedfill.batchapi.lines import EmbeddingsRequest
from embedfill.store import layout
from embedfill.store.local import LocalStore
from embedfill.tracker.shards import write_batch_file
from tests.chain_fixtures import Chain, documents
from tests.cli_fixtures import Cli

NAMES = {
    "documents", "chunks", "texts", "rejected", "new", "in_flight", "prompt_tokens", "batches", "requests", "bytes",
    "download_bytes", "cost_usd", "sync_cost_usd", "left_usd", "price_per_million", "prices_dated", "duration", "disk",
}  # fmt: skip
DURATION = {"waves", "max_enqueued_tokens", "max_enqueued_requests", "typical_s", "worst_s", "past_batches"}
DISK = {
    "store": {"shards", "packs", "index"},
    "cache": {"batch_file", "output_files", "pack", "index"},
    "engine": {"batch_files", "results", "output_files"},
}


def plan(cli: Cli, chain: Chain) -> dict[str, Any]:
    ran = cli("plan", chain.config_path, "--json")
    assert (ran.code, ran.err) == (0, "")
    return ran.json


def test_before_and_after_a_run(cli: Cli, chain: Chain) -> None:
    rows = [
        *documents(range(250)),
        {"id": "copy", "title": "t", "text": documents([0])[0]["text"]},
        {"id": "e", "text": " "},
    ]
    chain.write(rows).config()
    before = plan(cli, chain)
    assert set(before) == NAMES
    assert set(before["duration"]) == DURATION
    assert {name: set(room["parts"]) for name, room in before["disk"].items()} == DISK
    assert {name for room in before["disk"].values() for name in room} == {"path", "needed", "free", "short", "parts"}
    counted = [before[name] for name in ("documents", "chunks", "texts", "rejected", "new", "in_flight")]
    assert counted == [251, 251, 250, 1, 250, 0]
    assert (before["batches"], before["requests"], before["cost_usd"]) == (3, 25, 0.0)
    store = LocalStore(chain.folder / "store")
    assert [entry.key for prefix in ("plans/", "shards/", layout.PUBLISHED) for entry in store.list(prefix)] == []
    run = cli("run", chain.config_path, "--json").json
    assert (run["batches"], run["prompt_tokens"]) == (before["batches"], before["prompt_tokens"])
    assert {name: run[name] for name in ("documents", "chunks", "texts", "rejected")} == {
        name: before[name] for name in ("documents", "chunks", "texts", "rejected")
    }
    after = plan(cli, chain)
    assert [after[name] for name in ("texts", "new", "batches", "requests", "bytes", "prompt_tokens")] == [
        250,
        0,
        0,
        0,
        0,
        0,
    ]


def test_the_bytes_are_those_that_are_uploaded_or_a_little_more(cli: Cli, chain: Chain) -> None:
    chain.write(documents(range(250))).config()
    said = plan(cli, chain)["bytes"]
    cli("run", chain.config_path)
    store, out, sizes = LocalStore(chain.folder / "store"), chain.folder / "batch.jsonl", []
    for entry in store.list("shards/"):
        shard = chain.folder / "store" / entry.key
        write_batch_file(shard, out, shard.stem, EmbeddingsRequest("wordllama-256", "base64", None).line)
        sizes.append(out.stat().st_size)
    assert len(sizes) == 3
    assert 0.7 * said < sum(sizes) <= said


@pytest.mark.parametrize(
    ("more", "usd", "words"),
    [
        ({"price_per_million": 500.0}, 500.0, "at $500 per million tokens\n"),
        ({}, None, "unknown (set embedding.price_per_million)"),
        ({"price_per_million": 0.0}, 0.0, "$0"),
    ],
    ids=["priced", "unknown", "free"],
)
def test_the_price_without_asking_anybody(
    cli: Cli, chain: Chain, more: dict[str, Any], usd: float | None, words: str
) -> None:
    """No key is set, and there is no such server."""
    server = {"provider": "generic", "model": "own", "dimensions": 8, "base_url": "http://embedfill.invalid/v1", **more}
    chain.write(documents(range(20))).config(embedding=server)
    said = plan(cli, chain)
    assert said["cost_usd"] == (usd if usd is None else pytest.approx(said["prompt_tokens"] * usd / 1e6))
    assert words in cli("plan", chain.config_path).out


def test_known_prices_are_half_of_the_listed(cli: Cli, chain: Chain) -> None:
    chain.write(documents(range(20))).config(embedding={"provider": "openai", "model": "text-embedding-3-small"})
    said = plan(cli, chain)
    assert said["price_per_million"] == 0.01
    assert said["cost_usd"] == pytest.approx(said["prompt_tokens"] * 0.01 / 1e6)


def test_for_a_reader(cli: Cli, chain: Chain) -> None:
    chain.write(documents(range(1200))).config()
    out = cli("plan", chain.config_path).out
    assert "corpus   1,200 documents, 1,200 chunks, 1,200 distinct texts" in out
    assert "to embed 1,200 new texts" in out and "to send  12 batches with 120 requests" in out


def test_what_it_chunked_the_run_does_not_chunk_again(cli: Cli, chain: Chain) -> None:
    chain.write(documents(range(20))).config()
    plan(cli, chain)
    held = [entry.key for entry in LocalStore(chain.folder / "store").list("chunks/")]
    assert len(held) == 1
    cli("run", chain.config_path)
    assert [entry.key for entry in LocalStore(chain.folder / "store").list("chunks/")] == held


def test_a_missing_file_is_exit_1(cli: Cli, chain: Chain) -> None:
    chain.config()
    ran = cli("plan", chain.config_path, "--json")
    assert (ran.code, ran.error["code"]) == (1, "corpus")


def test_time_for_a_reader(cli: Cli, chain: Chain) -> None:
    server = {"provider": "openai", "model": "text-embedding-3-small"}
    chain.write(documents(range(60))).config(embedding=server, batch={"max_enqueued_tokens": 400})
    tokens = plan(cli, chain)["prompt_tokens"]
    waves = -(-tokens // 400)
    out = cli("plan", chain.config_path).out
    assert f"time     {waves} waves of 400 enqueued tokens: {waves} d if every batch takes its whole window" in out
    assert "disk     store: about" in out and " free (shards" in out and "warning" not in out


def test_too_little_room_is_said(cli: Cli, chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100_000, 90_000, 10_000))
    chain.write(documents(range(60))).config()
    assert [room["short"] for room in plan(cli, chain)["disk"].values()] == [True] * 3
    out = cli("plan", chain.config_path).out
    assert f"warning  there is too little room for that: free some at {chain.folder / 'store'}, " in out


def test_a_price_above_what_the_budget_leaves_is_warned_of(cli: Cli, chain: Chain) -> None:
    server = {
        "provider": "generic", "model": "own", "dimensions": 8, "base_url": "http://embedfill.invalid/v1",
        "price_per_million": 500.0, "sync_price_per_million": 1000.0,
    }  # fmt: skip
    chain.write(documents(range(20))).config(embedding=server, batch={"budget_usd": 0.00002})
    said = plan(cli, chain)
    assert (said["left_usd"], said["prices_dated"]) == (0.00002, None)
    assert said["cost_usd"] == round(said["cost_usd"], 10)
    assert said["sync_cost_usd"] == pytest.approx(2 * said["cost_usd"])
    assert "more than the $0.000020 that batch.budget_usd leaves" in cli("plan", chain.config_path).out
    chain.config(embedding=server, batch={"budget_usd": 100.0})
    assert "warning" not in cli("plan", chain.config_path).out
