"""`embedfill batch status` and `cancel`: a job as its store knows it, from nothing but --out."""

from pathlib import Path

import pytest

from tests.chat_fixtures import Job, chat_line, subject
from tests.cli_fixtures import Cli, everything_below
from tests.fate_fixtures import Fate
from tests.provider_fixtures import Provider
from tests.test_cli_status import NAMES

JOB_NAMES = {"store", "endpoint", "provider", "origin", "answered", "failed", "in_flight", "pending"}
MONEY = {"batches", "prompt_tokens", "completion_tokens", "cost_usd", "in_flight_usd", "budget_usd", "left_usd"}


def test_from_what_is_out_to_the_end_by_the_name_of_the_results_alone(job: Job, cli: Cli, provider: Provider) -> None:
    provider.hold = True
    job.write_lines([chat_line(f"r{number}", subject(number)) for number in range(3)])
    assert cli(*job.command("--no-wait")).code == 4
    ran = cli("batch", "status", "--out", job.out, "--budget-usd", "2", "--json")
    assert (ran.code, ran.err) == (0, "")
    said = ran.json
    assert set(said) >= JOB_NAMES | MONEY and not set(said) - NAMES - JOB_NAMES
    assert (said["in_flight"], said["endpoint"], said["provider"]) == (3, "/v1/chat/completions", "generic")
    assert said["origin"] in provider.url and 1.9 < said["left_usd"] < 2
    text = cli("batch", "status", "--out", job.out).out
    assert "0 answered, 0 failed, 3 in flight, 0 to be sent" in text and "3 requests" in text and " of 24h" in text
    provider.finish()
    provider.hold = False
    assert cli(*job.command()).code == 0
    said = cli("batch", "status", "--store", f"{job.out}.store", "--json").json
    assert (said["answered"], said["in_flight"], said["batches_out"]) == (3, 0, [])


def test_cancel_by_the_name_of_the_results_alone(job: Job, cli: Cli, provider: Provider) -> None:
    provider.fates = [Fate(takes_s=1e6, share=0.5)]
    job.write_lines([chat_line(f"r{number}", subject(number)) for number in range(4)])
    assert cli(*job.command("--no-wait")).code == 4
    ran = cli("batch", "cancel", "--out", job.out, "--json")
    assert ran.code == 2 and "1 batch with 4 requests" in ran.err and "--yes" in ran.error["hint"]
    ran = cli("batch", "cancel", "--out", job.out, "--config", job.folder / "job.toml", "--yes", "--json")
    assert ran.code == 0, ran.err
    done = ran.json
    assert (done["batches"], done["requests"], done["answered"], done["failed"]) == (1, 4, 2, 0) and done[
        "cost_usd"
    ] > 0
    assert cli("batch", "cancel", "--out", job.out).out == "nothing is in flight\n"
    assert cli(*job.command()).code == 0 and len(job.said()) == 4


@pytest.mark.parametrize("verb", ["status", "cancel"])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give --out or --store"),
        (["--out", "none.parquet"], "there is no store at"),
        (["--out", "none.parquet", "--endpoint", "/v1/other"], "Invalid value for '--endpoint'"),
        (["--out", "none.parquet", "--provider", "nobody"], "--provider = "),
    ],
)
def test_wrong_use_is_told_and_leaves_nothing_behind(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = cli("batch", verb, *arguments, "--json")
    assert ran.code == 2 and words in ran.error["message"] + ran.error["hint"]
    assert not everything_below(tmp_path)
