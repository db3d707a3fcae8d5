"""`embedfill run`: its summary, every exit code for real, what it asks before it spends, and interrupts."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from embedfill.cli.main import call
from embedfill.store import layout
from embedfill.store.local import LocalStore
from tests import provider_fixtures
from tests.chain_fixtures import Chain, documents
from tests.cli_fixtures import Cli, Ran
from tests.engine_fixtures import EngineProcess
from tests.provider_fixtures import Provider

SUMMARY = {
    "snapshot", "documents", "chunks", "texts", "rejected", "embedded", "reused", "batches", "prompt_tokens",
    "cost_usd", "index", "seconds", "planned", "in_flight", "finished",
}  # fmt: skip


def openai(url: str, **more: Any) -> dict[str, Any]:
    return {"provider": "openai", "base_url": url, "dimensions": 256, "tokenizer": "wordllama-256", **more}


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")


@pytest.fixture
def nobody_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def keys(chain: Chain, prefix: str = "") -> list[str]:
    return [entry.key for entry in LocalStore(chain.folder / "store").list(prefix)]


def run(cli: Cli, chain: Chain, *options: str, **tables: Any) -> Ran:
    """The tables stay for later runs of the same chain."""
    chain.settings.update(tables)
    chain.config()
    return cli("run", chain.config_path, *options)


def test_the_summary_has_the_names_that_scripts_rely_on(cli: Cli, chain: Chain) -> None:
    chain.write(documents(range(30)))
    first = run(cli, chain, "--json")
    assert first.code == 0
    said = first.json
    assert set(said) == SUMMARY
    assert set(said["index"]) == {"kind", "rows", "recall_at_10", "bytes"}
    assert {"scan", "embed", "index", "publish"} <= set(said["seconds"])
    assert all(isinstance(taken, float) for taken in said["seconds"].values())
    counted = [said[name] for name in ("documents", "chunks", "texts", "rejected", "embedded", "reused", "batches")]
    assert counted == [30, 30, 30, 0, 30, 0, 1]
    assert (said["cost_usd"], said["finished"]) == (0.0, True)
    assert said["prompt_tokens"] > 30 and said["index"]["rows"] == 30
    second = run(cli, chain, "--json").json
    assert (second["snapshot"], second["embedded"], second["reused"], second["batches"]) == (said["snapshot"], 0, 30, 0)
    assert second["index"] == said["index"]


def test_the_same_for_a_reader(cli: Cli, chain: Chain) -> None:
    chain.write([*documents(range(5)), {"id": "doc-0", "title": "again", "text": "Twice."}])
    ran = run(cli, chain)
    assert ran.code == 3
    assert "embedded 5 texts in 1 batch" in ran.out and "$0" in ran.out
    assert "published 5 documents, 5 chunks, 5 texts" in ran.out
    assert (
        "recall@10 1.000" in ran.out
        and f"1 rejection stands: see with: embedfill rejections {chain.config_path}" in ran.out
    )
    again = run(cli, chain)
    assert (again.code, again.err) == (3, "")
    assert "nothing to embed" in again.out


def test_a_missing_corpus_file_or_column_is_exit_1_and_nothing_is_published(cli: Cli, chain: Chain) -> None:
    ran = run(cli, chain, "--json", corpus={"paths": ["corpus/none.parquet"]})
    assert (ran.code, ran.error["code"]) == (1, "corpus")
    assert "none.parquet" in ran.error["message"]
    chain.write(documents(range(3)))
    ran = run(cli, chain, "--json", corpus={"paths": ["corpus/*.parquet"], "text": "body"})
    assert (ran.code, ran.error["code"]) == (1, "corpus")
    assert "corpus.parquet" in ran.error["message"] and "body" in ran.error["message"]
    (chain.folder / "corpus" / "broken.parquet").write_bytes(b"PAR1 but not for long")
    ran = run(cli, chain, "--json", corpus={"paths": ["corpus/*.parquet"]})
    assert (ran.code, ran.error["code"]) == (1, "corpus")
    assert "broken.parquet" in ran.error["message"]
    assert [keys(chain, prefix) for prefix in (layout.PUBLISHED, "plans/", "claims/")] == [[], [], []]


def test_exit_4_while_batches_are_out_and_0_once_they_are_in(cli: Cli, chain: Chain) -> None:
    """So small a quota that one round cannot send everything."""
    chain.write(documents(range(60)))
    quota = {"max_enqueued_tokens": 320}
    ran = run(cli, chain, "--no-wait", "--json", batch=quota)
    assert ran.code == 4
    assert (ran.json["finished"], ran.json["snapshot"], ran.json["documents"]) == (False, "", 0)
    for _ in range(200):
        ran = run(cli, chain, "--no-wait", "--json", batch=quota)
        if ran.code != 4:
            break
    assert (ran.code, ran.json["finished"], ran.json["texts"]) == (0, True, 60)
    submitted = chain.submitted()
    assert len(submitted) == len(set(submitted)) > 4


def test_unfinished_for_a_reader(cli: Cli, chain: Chain) -> None:
    chain.write(documents(range(60)))
    ran = run(cli, chain, "--no-wait", batch={"max_enqueued_tokens": 240})
    assert ran.code == 4
    assert "batches are out" in ran.out


# ---------------------------------------------------------------------------------------------------------------------
# Providers that cost money


@pytest.mark.usefixtures("key")
def test_a_server_of_the_api_on_this_machine_drives_a_whole_run_unasked(
    cli: Cli, chain: Chain, engine: EngineProcess
) -> None:
    chain.write(documents(range(25)))
    ran = run(cli, chain, "--json", embedding=openai(engine.url))
    assert ran.code == 0
    assert (ran.json["embedded"], ran.json["cost_usd"]) == (25, None)
    assert run(cli, chain, "--json").json["batches"] == 0
    assert not (chain.folder / "store" / "engine").exists()


@pytest.mark.usefixtures("key", "nobody_to_ask")
def test_exit_5_at_the_budget_and_on_from_there(cli: Cli, chain: Chain, engine: EngineProcess) -> None:
    chain.write(documents(range(40)))
    embedding = openai(engine.url, price_per_million=1_000.0)
    small = {"max_inputs": 10, "budget_usd": 0.15}
    ran = run(cli, chain, "--json", embedding=embedding, batch=small)
    assert ran.code == 5
    assert set(ran.json) == SUMMARY | {"error"}
    assert ran.json["error"]["code"] == "billing" and "budget_usd" in ran.json["error"]["message"]
    assert "budget_usd" in ran.err and "Traceback" not in ran.err
    assert (ran.json["snapshot"], 0 < ran.json["embedded"] < 40) == ("", True)
    assert 0 < ran.json["cost_usd"] <= 0.15
    assert run(cli, chain, "--json", batch=small).json["batches"] == 0
    more = run(cli, chain, "--json", batch={"max_inputs": 10, "budget_usd": 5.0})
    assert (more.code, more.json["texts"], more.json["embedded"]) == (0, 40, 40 - ran.json["embedded"])


@pytest.mark.usefixtures("key", "nobody_to_ask")
def test_a_price_is_asked_about_on_this_machine_too(cli: Cli, chain: Chain, engine: EngineProcess) -> None:
    chain.write(documents(range(5)))
    ran = run(cli, chain, "--json", embedding=openai(engine.url, price_per_million=0.01))
    assert (ran.code, ran.error["code"]) == (2, "usage") and "--yes" in ran.error["hint"]
    assert keys(chain, "claims/") == []
    assert "$0.0000" in ran.err and "$0.0000 " not in ran.err  # however little: it is not nothing


@pytest.mark.usefixtures("key", "nobody_to_ask")
def test_a_stop_before_anything_was_sent_claims_nothing(cli: Cli, chain: Chain, engine: EngineProcess) -> None:
    chain.write(documents(range(40)))
    chain.settings["embedding"] = openai(engine.url, price_per_million=1_000.0)
    for options in ([], ["--no-wait"]):
        ran = run(cli, chain, *options, batch={"max_inputs": 10, "budget_usd": 0.0001})
        assert ran.code == 5 and "budget_usd" in ran.err
        assert "still to be sent: 40 texts" in ran.out
        assert "batches are out" not in ran.out and "nothing to embed" not in ran.out and "published" not in ran.out
    said = run(cli, chain, "--json").json
    assert (said["finished"], said["planned"], said["in_flight"], said["embedded"]) == (False, 40, 0, 0)


@pytest.mark.usefixtures("key", "nobody_to_ask")
def test_nothing_is_sent_where_it_costs_money_and_nobody_can_be_asked(cli: Cli, chain: Chain) -> None:
    chain.write(documents(range(5)))
    embedding = openai("http://embedfill.invalid/v1", price_per_million=0.01)
    started = time.monotonic()
    ran = run(cli, chain, "--json", embedding=embedding)
    assert (ran.code, ran.error["code"]) == (2, "usage")
    assert "--yes" in ran.error["hint"] and "budget_usd" in ran.error["hint"]
    assert "5 new texts" in ran.err and " at $0.01 per million" in ran.err
    assert time.monotonic() - started < 5  # it did not even try
    assert keys(chain, "plans/") + keys(chain, "claims/") == []


@pytest.mark.usefixtures("key")
@pytest.mark.parametrize("answer", ["n", ""])
def test_a_no_sends_nothing(cli: Cli, chain: Chain, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(answer + "\n"))
    chain.write(documents(range(5)))
    ran = run(cli, chain, embedding=openai("http://embedfill.invalid/v1"))
    assert (ran.code, ran.out) == (2, "")
    assert "Submit this?" in ran.err and "nothing was submitted" in ran.err
    assert keys(chain, "plans/") == []


@pytest.mark.usefixtures("key")
@pytest.mark.parametrize("how", ["yes", "--yes", "budget"])
def test_a_yes_sends_and_is_not_asked_for_again(
    cli: Cli, chain: Chain, engine: EngineProcess, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The address 0.0.0.0 leads to this machine too, but does not say so."""
    monkeypatch.setattr(sys, "stdin", Terminal("y\n") if how == "yes" else io.StringIO(""))
    chain.write(documents(range(5)))
    tables: dict[str, Any] = {"embedding": openai(engine.url.replace("127.0.0.1", "0.0.0.0"), price_per_million=0.01)}
    if how == "budget":
        tables["batch"] = {"budget_usd": 1.0}
    ran = run(cli, chain, "--json", *(["--yes"] if how == "--yes" else []), **tables)
    assert (ran.code, ran.json["embedded"]) == (0, 5)
    assert ("Submit this?" in ran.err) == (how == "yes")
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert run(cli, chain, "--json").code == 0  # nothing new: nothing to ask


@pytest.mark.usefixtures("nobody_to_ask")
def test_without_a_key_nothing_is_sent(cli: Cli, chain: Chain) -> None:
    chain.write(documents(range(5)))
    embedding = {"provider": "openai", "model": "text-embedding-3-small"}
    ran = run(cli, chain, "--yes", "--json", embedding=embedding)
    assert (ran.code, ran.error["code"]) == (2, "config")
    assert "OPENAI_API_KEY" in ran.error["message"]


@pytest.mark.usefixtures("key")
def test_a_server_that_refuses_is_quoted_without_its_control_characters(
    cli: Cli, chain: Chain, engine: EngineProcess
) -> None:
    chain.write(documents(range(5)))
    ran = run(cli, chain, "--json", embedding={**openai(engine.url), "model": "no-such\u009b-model"})
    assert ran.code == 1
    assert "no-such" in ran.err and "\u009b" not in ran.err and "Traceback" not in ran.err


# ---------------------------------------------------------------------------------------------------------------------
# Interrupts


def start(chain: Chain) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "embedfill.cli", "run", str(chain.config_path), "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists() or not any(path.iterdir()):
        assert time.monotonic() < deadline, path
        time.sleep(0.005)


@pytest.mark.parametrize("until", ["chunks", "claims", "outcomes"])
def test_ctrl_c_in_mid_run_is_130_and_the_next_run_finishes(cli: Cli, chain: Chain, until: str) -> None:
    """A terminal sends it to the whole group, the engine and the workers too."""
    chain.write(documents(range(120)))
    chain.config(batch={"max_enqueued_tokens": 400, "poll_s": 0.2}, executor={"workers": 2})
    process = start(chain)
    wait_for(chain.folder / "store" / until)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    ran = Ran(process.returncode, out.decode(), err.decode())
    assert (ran.code, ran.error["code"]) == (130, "interrupted")
    assert "run it again" in ran.err
    assert cli("run", chain.config_path, "--json").json["texts"] == 120
    submitted = chain.submitted()
    assert len(submitted) == len({name.rpartition("-")[0] for name in submitted})


def test_a_supervisors_sigterm_is_said_like_ctrl_c(chain: Chain) -> None:
    chain.write(documents(range(120)))
    chain.config(batch={"max_enqueued_tokens": 400, "poll_s": 0.2})
    process = start(chain)
    wait_for(chain.folder / "store" / "claims")
    process.terminate()
    out, err = process.communicate(timeout=60)
    ran = Ran(process.returncode, out.decode(), err.decode())
    assert (ran.code, ran.error["code"]) == (130, "interrupted")


def test_a_verb_leaves_the_callers_process_as_it_was(chain: Chain) -> None:
    chain.write(documents(range(3))).config()
    handler = signal.getsignal(signal.SIGINT)
    assert call(["run", str(chain.config_path), "--json"]) == 0
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.usefixtures("key")
def test_a_text_that_a_provider_cannot_embed_is_rejected_and_the_rest_published(
    cli: Cli, chain: Chain, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers, and is paid, but with zeros. Else such a text would go out at every run, and nothing be published."""
    embed, rows = provider_fixtures.vector, documents(range(12))
    bad = rows[3]["text"]
    monkeypatch.setattr(provider_fixtures, "vector", lambda text: embed(text) * (text != bad))
    chain.write(rows)
    server = {
        "provider": "generic",
        "base_url": provider.url,
        "model": "tiny",
        "dimensions": provider_fixtures.DIMENSIONS,
    }
    ran = run(cli, chain, "--json", embedding=server, batch={"poll_s": 0.002})
    assert (ran.code, ran.json["texts"], ran.json["rejected"]) == (3, 11, 1)
    sent = provider.texts_sent()
    assert sent.count(bad) == 3 and len(sent) == 14
    assert cli("status", chain.config_path, "--rejections", "--json").json["rejections"][0]["code"] == "bad_vector"
    assert run(cli, chain, "--json").json["batches"] == 0


def test_wrong_dimensions_stop_the_run_and_reject_nothing(cli: Cli, chain: Chain, provider: Provider) -> None:
    chain.write(documents(range(5)))
    server = {"provider": "generic", "base_url": provider.url, "model": "tiny", "dimensions": 3}
    ran = run(cli, chain, "--json", embedding=server, batch={"poll_s": 0.002})
    assert ran.code == 1 and "wrong_dimensions" in ran.error["message"]
    assert cli("status", chain.config_path, "--json").json["texts_refused"] == 0


@pytest.mark.usefixtures("key")
def test_what_trying_again_cannot_help_is_not_said_to_be_tried(cli: Cli, chain: Chain, provider: Provider) -> None:
    chain.write(documents(range(5)))
    provider.script("POST", "/files", provider_fixtures.refuse(401, "invalid_api_key", "no such key"))
    server = {"provider": "generic", "base_url": provider.url, "model": "tiny", "dimensions": 3}
    ran = run(cli, chain, embedding=server, batch={"poll_s": 0.002})
    assert ran.code == 1 and "no such key" in ran.err and "trying again" not in ran.err


def test_hints_name_the_configuration(cli: Cli, chain: Chain) -> None:
    chain.config()
    assert (
        cli("status", chain.config_path, "--json").error["hint"] == f"make it with: embedfill run {chain.config_path}"
    )


@pytest.mark.usefixtures("nobody_to_ask")
def test_prune_without_a_key_can_leave_the_provider_alone(
    cli: Cli, chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain.write(documents(range(3))).run()
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    chain.config(embedding={"provider": "openai", "model": "text-embedding-3-small"})
    ran = cli("prune", chain.config_path, "--json")
    assert ran.code == 2 and "OPENAI_API_KEY" in ran.error["message"] and "--no-uploads" in ran.error["hint"]
    assert cli("prune", chain.config_path, "--no-uploads").code == 0
