"""`embedfill status`: where a store stands, with the names that the other verbs use; it changes nothing."""

import orjson

from tests.chain_fixtures import Chain, documents
from tests.cli_fixtures import Cli, everything_below

NAMES = {
    "store", "snapshot", "published", "documents", "chunks", "texts", "rejected", "index", "model", "shards",
    "planned", "in_flight", "with_vectors", "texts_refused", "batches", "prompt_tokens", "completion_tokens", "cost_usd",
    "in_flight_usd", "budget_usd", "left_usd", "enqueued_tokens", "enqueued_requests", "max_enqueued_tokens",
    "max_enqueued_requests", "window", "batches_out", "elsewhere_usd",
    "elsewhere_batches_out",
}  # fmt: skip
HOSTILE = "\x1b]0;owned\x07\x9b2J"


def test_it_says_what_the_run_said_and_changes_nothing(cli: Cli, chain: Chain) -> None:
    chain.write([*documents(range(30)), {"id": "doc-1", "title": "t", "text": "twice"}]).config()
    run = cli("run", chain.config_path, "--json").json
    before = everything_below(chain.folder)
    ran = cli("status", chain.config_path, "--json")
    assert (ran.code, ran.err) == (0, "")
    said = ran.json
    assert set(said) == NAMES
    shared = set(run) & NAMES - {"seconds"}
    assert shared >= {
        "snapshot",
        "documents",
        "chunks",
        "texts",
        "rejected",
        "index",
        "batches",
        "prompt_tokens",
        "cost_usd",
    }
    assert {name: said[name] for name in shared} == {name: run[name] for name in shared}
    assert (said["published"], said["shards"], said["in_flight"], said["with_vectors"]) == (1, {"settled": 1}, 0, 30)
    assert said["model"] == "wordllama-256" and said["store"] == str(chain.folder / "store")
    assert everything_below(chain.folder) == before


def test_between_runs_it_tells_what_is_out(cli: Cli, chain: Chain) -> None:
    chain.write(documents(range(60))).config(batch={"max_enqueued_tokens": 240})
    assert cli("run", chain.config_path, "--no-wait").code == 4
    said = cli("status", chain.config_path, "--json").json
    assert (said["snapshot"], said["documents"], said["index"]) == ("", 0, {})
    assert said["planned"] + said["in_flight"] + said["with_vectors"] == 60
    assert said["in_flight"] == sum(one["texts"] for one in said["batches_out"])
    assert said["shards"]["planned"] > 0 and said["planned"] > 0
    out = cli("status", chain.config_path).out
    assert "published nothing yet" in out
    assert f"{said['planned']} texts planned, {said['in_flight']} in flight" in out


def test_for_a_reader(cli: Cli, chain: Chain) -> None:
    chain.write(documents(range(30))).config()
    cli("run", chain.config_path)
    out = cli("status", chain.config_path).out
    assert "published 30 documents, 30 chunks, 30 texts (publication 1), 0 rejected" in out
    assert "index     Flat" in out and "1 settled" in out and "30 with vectors" in out and "$0" in out


def test_rejections_are_listed_with_file_and_row(cli: Cli, chain: Chain) -> None:
    rows = [*documents(range(3)), {"id": None, "title": "t", "text": "x"}, {"id": "doc-2", "title": "t", "text": "y"}]
    chain.write(rows).config()
    assert cli("run", chain.config_path).code == 3
    assert "rejections" not in cli("status", chain.config_path, "--json").json
    said = cli("status", chain.config_path, "--rejections", "--json").json
    assert len(said["rejections"]) == said["rejected"] == 2
    assert {(one["code"], one["document_id"], one["row"]) for one in said["rejections"]} == {
        ("null_id", None, 3), ("duplicate_id", "doc-2", 4),
    }  # fmt: skip
    out = cli("status", chain.config_path, "--rejections").out
    assert "rejected  duplicate_id  corpus/corpus.parquet row 4: document id 'doc-2'" in out


def test_a_rejection_does_not_steer_the_terminal(cli: Cli, chain: Chain) -> None:
    rows = [{"id": f"a{HOSTILE}", "title": HOSTILE, "text": "one"}, {"id": f"a{HOSTILE}", "title": "t", "text": "two"}]
    chain.write(rows, f"odd{HOSTILE}.parquet".replace("/", "")).config()
    cli("run", chain.config_path)
    for ran in (cli("status", chain.config_path, "--rejections"), cli("run", chain.config_path)):
        assert not {"\x1b", "\x07", "\x9b"} & set(ran.out + ran.err)
    raw = cli("status", chain.config_path, "--rejections", "--json").out
    assert "\x1b" not in raw and orjson.loads(raw)["rejections"][0]["document_id"] == f"a{HOSTILE}"


def test_what_is_out_for_a_reader(cli: Cli, chain: Chain) -> None:
    chain.write(documents(range(250)))
    chain.run_and_die("after-claim")
    server = {"provider": "local", "model": "wordllama-256", "price_per_million": 1000.0}
    chain.config(embedding=server, batch={"budget_usd": 100.0, "max_enqueued_tokens": 50_000})
    said = cli("status", chain.config_path, "--json").json
    (one,) = said["batches_out"]
    assert set(one) == {"id", "shard", "attempt", "texts", "tokens", "age_s", "near_window"}
    assert (one["id"], one["texts"], one["near_window"]) == (None, 100, False)
    out = cli("status", chain.config_path).out
    assert f"in flight 1 batch, {one['tokens']:,} of 50,000 tokens, ${one['tokens'] / 1000:.2f}; $" in out
    assert f"out       (no batch known yet; shard {one['shard']})  100 texts, {one['tokens']:,} tokens, " in out
    chain.config()
    cli("run", chain.config_path)
    assert "in flight 0" not in cli("status", chain.config_path).out
