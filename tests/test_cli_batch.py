"""`embedfill batch`: exit codes, output, and what it asks for."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from embedfill.jobs.results import METADATA_KEY
from tests.chat_fixtures import CHAT, Job, chat_line, label_of, labelled, subject
from tests.cli_fixtures import Cli, everything_below
from tests.provider_fixtures import Provider


def test_a_table_through_a_template_and_what_its_results_carry(job: Job, cli: Cli) -> None:
    ran = cli(*job.write_tickets(range(30), parts=4).command("--json"))
    assert ran.code == 0, ran.err
    assert list(job.said().items()) == [(f"t{number}", label_of(number)) for number in range(30)]
    versions = {row["template"] for row in job.results()}
    assert len(versions) == 1 and None not in versions
    metadata = pq.read_schema(job.out).metadata[METADATA_KEY].decode()
    assert versions.pop() in metadata and "Label the ticket" in metadata and CHAT in metadata
    assert ran.json["totals"]["statuses"] == {"ok": 30, "failed": 0, "rejected": 0, "pending": 0}
    assert ran.json["cost_usd"] == ran.json["totals"]["cost_usd"] > 0 and ran.json["out"] == str(job.out)
    assert cli(*job.command("--json")).json["answered"] == 0  # the state lies beside the results
    assert (job.folder / "results.parquet.store" / "store.json").exists()


def test_another_prompt_asks_again_and_the_two_can_be_compared(job: Job, cli: Cli) -> None:
    cli(*job.write_tickets(range(20)).command())
    before = job.out.rename(job.folder / "before.parquet")
    prompt = job.folder / "prompt.toml"
    prompt.write_text(prompt.read_text().replace('"{subject}"', '"{subject} (a refund?)"'))
    assert cli(*job.command()).code == 0
    ran = cli("batch", "diff", before, job.out, "--json", "--out", job.folder / "changed.parquet")
    changed = sum(label_of(number) in ("other",) for number in range(20))
    assert (ran.json["changed"], ran.json["same"]) == (changed, 20 - changed)
    assert ran.json["a"]["templates"].keys() != ran.json["b"]["templates"].keys()
    assert pq.read_table(job.folder / "changed.parquet")["answer_b"].to_pylist() == ["refund"] * changed
    text = cli("batch", "diff", before, job.out).out
    assert f"{20 - changed} same, {changed} changed" in text and "tiny-chat" in text and "template" in text


def test_exit_codes(job: Job, cli: Cli, provider: Provider) -> None:
    lines = [chat_line(f"r{number}", subject(number)) for number in range(3)]
    provider.hold = True
    assert cli(*job.write_lines(lines).command("--no-wait")).code == 4
    assert not job.out.exists()
    provider.finish()
    provider.hold = False
    assert cli(*job.command("--no-wait")).code == 0 and job.out.exists()
    assert cli(*job.write_lines([*lines, b"{"]).command()).code == 3
    assert cli(*job.write_lines([*lines, chat_line("no", "forbidden")]).command()).code == 3
    ran = cli(*job.write_lines([*lines, chat_line("new", "login")]).command("--json", "--budget-usd", "0.0000001"))
    assert ran.code == 5 and ran.json["out"] is None and not ran.json["finished"]
    assert "budget_usd" in ran.json["error"]["message"]
    assert len(job.results()) == 4, "what was written before stands"


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "give either prepared requests, or --from"),
        (["x.jsonl", "--from", "t.parquet", "--template", "p.toml"], "give either"),
        (["--from", "t.parquet"], "give either"),
        (["x.jsonl"], "--endpoint is missing"),
        (["x.jsonl", "--endpoint", "/v1/other"], "Invalid value for '--endpoint'"),
        (["x.jsonl", "--endpoint", CHAT], "local engine serves /v1/embeddings alone"),
        (["x.jsonl", "--endpoint", CHAT, "--provider", "generic"], "provider.base_url"),
        (["x.jsonl", "--endpoint", CHAT, "--provider", "nobody"], "--provider = "),
        (["x.jsonl", "--endpoint", CHAT, "--config", "none.toml"], "none.toml"),
    ],
)
def test_wrong_use_is_told_and_leaves_nothing_behind(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = cli("batch", "run", *arguments, "--out", "out.parquet", "--json")
    assert ran.code == 2 and words in ran.error["message"] + ran.error["hint"]
    assert not everything_below(tmp_path)


def test_results_need_a_folder(job: Job, cli: Cli) -> None:
    ran = cli("batch", "run", "x.jsonl", "--endpoint", CHAT, "--out", job.folder / "no" / "out.parquet", "--json")
    assert ran.code == 2 and "no such folder" in ran.error["message"]


@pytest.mark.parametrize("name", ["tickets-000.parquet", "prompt.toml", "job.toml"])
def test_no_input_is_overwritten(job: Job, cli: Cli, name: str) -> None:
    command = job.write_tickets(range(3)).command()
    before = (job.folder / name).read_bytes()
    ran = cli(*command, "--out", str(job.folder / name))
    assert ran.code == 2 and "overwrite an input" in ran.err
    assert (job.folder / name).read_bytes() == before and job.provider.books.batches == 0


def test_a_comparison_overwrites_none_of_its_sides(job: Job, cli: Cli) -> None:
    cli(*job.write_tickets(range(3)).command())
    before = job.out.read_bytes()
    assert cli("batch", "diff", job.out, job.out, "--out", job.out).code == 2
    assert cli("batch", "diff", job.out, job.out, "--out", job.folder / "no" / "x").code == 2
    assert job.out.read_bytes() == before and not (job.folder / "no").exists()


def test_prepared_embeddings_through_the_local_engine(job: Job, cli: Cli) -> None:
    body = {"model": "wordllama-256", "input": ["hello", "world"]}
    job.write_lines([{"custom_id": f"e{number}", "body": {**body, "dimensions": 64}} for number in range(3)])
    ran = cli("batch", "run", job.arguments[0], "--endpoint", "/v1/embeddings", "--out", job.out, "--json")
    assert ran.code == 0, ran.err
    assert [row["status"] for row in job.results()] == ["ok"] * 3 and ran.json["cost_usd"] == 0


def test_reasons_are_told_by_code_with_the_first(job: Job, cli: Cli) -> None:
    lines = [chat_line("a", "login"), chat_line("no", "forbidden"), b"{", b"[]", b"{"]
    ran = cli(*job.write_lines(lines).command())
    assert ran.code == 3 and "2 not_json: the line is not JSON" in ran.out and "requests.jsonl row 3)" in ran.out
    assert "1 content_policy: the message is forbidden" in ran.out
    assert cli(*job.command("--json")).json["totals"]["reasons"]["not_json"]["rows"] == 2


def test_a_dry_run_of_a_retry_counts_what_was_refused(job: Job, cli: Cli) -> None:
    job.write_lines([chat_line("a", "login"), chat_line("no", "forbidden")])
    cli(*job.command())
    plain = cli(*job.command("--dry-run", "--json")).json
    assert (plain["requests"], plain["answered"], plain["failed"]) == (0, 1, 1)
    again = cli(*job.command("--dry-run", "--retry-failed", "--json")).json
    assert (again["requests"], again["answered"], again["failed"]) == (1, 1, 0)


def test_a_request_that_never_runs_leaves_the_others_in_reach(job: Job, cli: Cli) -> None:
    ill = (503, {"error": {"code": "overloaded", "message": "later"}})
    job.provider.models[CHAT] = lambda body: ill if "ill" in str(body) else labelled(body)
    job.write_lines([chat_line("a", "login"), chat_line("b", "ill")])
    ran = cli(*job.command())
    assert ran.code == 1 and "--partial" in ran.err and not job.out.exists()
    assert cli(*job.command("--partial")).code == 1 and job.said() == {"a": "login", "b": None}


def test_a_dry_run_says_what_it_would_send_and_sends_nothing(job: Job, cli: Cli) -> None:
    job.write_tickets(range(10))
    ran = cli(*job.command("--dry-run", "--json"))
    assert ran.code == 0 and ran.json["requests"] == 10 and ran.json["output_tokens"] == 40
    assert ran.json["cost_usd"] == pytest.approx((ran.json["prompt_tokens"] + 400) / 1e6)
    said = cli(*job.command("--dry-run")).out
    assert "10 to send" in said and "price     about $" in said, "what is guessed bounds nothing"
    assert job.provider.books.batches == 0 and not job.out.exists()
