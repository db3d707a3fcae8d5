"""Support tickets, a chat model of the tests' provider that labels them by a rule, and jobs that ask it."""

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.cli_fixtures import Ran, run_process
from tests.dialect_fixtures import served
from tests.provider_fixtures import Provider

CHAT = "/v1/chat/completions"
LABELS = ("billing", "login", "shipping", "refund", "other")
PROMPT = """
id = "ticket"
endpoint = "/v1/chat/completions"

[body]
model = "tiny-chat"
max_completion_tokens = 4
[[body.messages]]
role = "system"
content = "Label the ticket: billing, login, shipping, refund or other. Answer {{label}} alone."
[[body.messages]]
role = "user"
content = "{subject}"
"""
CONFIG = """
[provider]
provider = "generic"
base_url = "{url}"
[batch]
poll_s = 0.05
listing_delay_s = 0.2
max_inputs = {inputs}
[prices]
tiny-chat = {{ input = 1.0, output = 10.0 }}
"""


def subject(number: int) -> str:
    """A ticket's words; every 17th is about something else."""
    label = label_of(number)
    return f"Ticket {number}: something about {'the weather' if label == 'other' else label}, please help – “soon”"


def label_of(number: int) -> str:
    return "other" if number % 17 == 0 else LABELS[number % 4]


def labelled(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """A chat completion whose content is the label in the last message; 400 where it says "forbidden"."""
    said = body["messages"][-1]["content"]
    if "forbidden" in said:
        return 400, {"error": {"message": "the message is forbidden", "code": "content_policy", "type": "bad"}}
    label = next((label for label in LABELS if label in said), "other")
    prompt = sum(len(message["content"].split()) for message in body["messages"])
    usage = {"prompt_tokens": prompt, "completion_tokens": 1, "total_tokens": prompt + 1}
    choice = {"index": 0, "message": {"role": "assistant", "content": label}, "finish_reason": "stop"}
    return 200, {"id": "c", "object": "chat.completion", "model": body["model"], "choices": [choice], "usage": usage}


def chat_line(custom_id: str, said: str, **body: Any) -> dict[str, Any]:
    """A prepared request."""
    whole = {"model": "tiny-chat", "max_completion_tokens": 4, "messages": [{"role": "user", "content": said}], **body}
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": whole}


@dataclass
class Job:
    """`embedfill batch run` over a provider, in a folder of its own."""

    folder: Path
    provider: Provider
    inputs: int = 50_000  # of a batch, at most
    arguments: list[str] = field(default_factory=list)

    @property
    def out(self) -> Path:
        return self.folder / "results.parquet"

    def write_lines(self, lines: Iterable[dict[str, Any] | bytes]) -> "Job":
        """Prepared requests, as bytes where they are to be wrong."""
        path = self.folder / "requests.jsonl"
        path.write_bytes(b"".join((one if isinstance(one, bytes) else orjson.dumps(one)) + b"\n" for one in lines))
        self.arguments = [str(path), "--endpoint", CHAT]
        return self

    def write_tickets(self, numbers: Sequence[int], parts: int = 1) -> "Job":
        """A table of tickets in so many files, and the prompt."""
        step = -(-len(numbers) // parts)
        for part in range(parts):
            mine = numbers[part * step : (part + 1) * step]
            columns = {"ticket": pa.array([f"t{number}" for number in mine]), "subject": pa.array(map(subject, mine))}
            pq.write_table(pa.table(columns), self.folder / f"tickets-{part:03d}.parquet", row_group_size=1000)
        (self.folder / "prompt.toml").write_text(PROMPT)
        self.arguments = [
            "--from",
            str(self.folder / "tickets-*.parquet"),
            "--template",
            str(self.folder / "prompt.toml"),
        ]
        return self

    def command(self, *more: str) -> list[str]:
        config = self.folder / "job.toml"
        config.write_text(CONFIG.format(url=self.provider.url, inputs=self.inputs))
        return ["batch", "run", *self.arguments, "--config", str(config), "--out", str(self.out), "--yes", *more]

    def run(self, *more: str) -> Ran:
        """As a process of its own."""
        return run_process(*self.command("--json", *more))

    def start(self, *more: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-m", "embedfill.cli", *self.command("--json", *more)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ),
        )  # fmt: skip

    def results(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = pq.read_table(self.out).to_pylist()
        return rows

    def said(self) -> dict[str, str | None]:
        """The content of each answer, by custom_id, in the order of the rows."""
        return {row["custom_id"]: content(row["body"]) if row["status"] == "ok" else None for row in self.results()}


def content(body: str) -> str:
    found: str = orjson.loads(body)["choices"][0]["message"]["content"]
    return found


def peak_bytes(pid: int) -> int:
    """The most memory that a process has held; 0 once it is gone. (What the system says of ended children counts the
    parent that they were forked from.)"""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


@contextmanager
def chat_provider() -> Iterator[Provider]:
    """The tests' provider with its chat model, outside of a test."""
    provider = Provider()
    provider.models[CHAT] = labelled
    with served(provider):  # type: ignore[arg-type] - any provider will do
        yield provider


@pytest.fixture
def job(provider: Provider, tmp_path: Path) -> Job:
    provider.models[CHAT] = labelled
    return Job(tmp_path, provider)


@dataclass
class Killed:
    """What it took: processes killed and finished, with the peak memory and the time of the last."""

    codes: list[int] = field(default_factory=list)
    peak_bytes: int = 0
    seconds: float = 0.0


def run_killed(job: Job, kill_at: Sequence[int]) -> Killed:
    """Runs a job, killing it with SIGKILL as soon as so many batches were made, then to its end. Raises AssertionError
    where a process ended before it could be killed."""
    killed, start = Killed(), time.monotonic()
    for batches in (*kill_at, None):
        process = job.start()
        while process.poll() is None and (batches is None or job.provider.books.batches < batches):
            killed.peak_bytes = max(killed.peak_bytes, peak_bytes(process.pid))
            time.sleep(0.005)
        if batches is not None:
            assert process.poll() is None, process.communicate()
            process.kill()
        _, errors = process.communicate()
        killed.codes.append(process.returncode)
        assert process.returncode == (0 if batches is None else -9), errors
    killed.seconds = time.monotonic() - start
    return killed
