"""A real engine as a process on a directory of the test, and what tests do with one."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import httpx
import openai
import orjson
import pytest

STATIC = "wordllama-256"
_DEADLINE_S = 60.0


class EngineProcess:
    """`python -m embedfill.engine` on `data`. Start, kill and start it again."""

    def __init__(self, data: Path, *arguments: str) -> None:
        self.data = data
        self._arguments = arguments
        self.url = ""
        self.process: subprocess.Popen[str] | None = None
        self.http = httpx.Client(timeout=30.0)

    def start(self, *arguments: str, log: IO[str] | None = None) -> "EngineProcess":
        self.process = subprocess.Popen(self.command(*arguments), stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        self.announcement = self.process.stdout.readline()
        self.url = self.announcement.removeprefix("listening on ").strip()
        return self

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "embedfill.engine", "--data", str(self.data), *self._arguments, *arguments]

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self._reap()

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self._reap()

    def wait(self) -> int:
        return self._reap()

    def close(self) -> None:
        self.http.close()
        if self.process is not None and self.process.poll() is None:
            self.kill()

    def _reap(self) -> int:
        assert self.process is not None and self.process.stdout is not None
        code = self.process.wait(timeout=_DEADLINE_S)
        self.process.stdout.close()
        return code

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.http.get(self.url + path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.http.post(self.url + path, **options)

    def upload(self, data: bytes, purpose: str = "batch", **fields: str) -> httpx.Response:
        files = {"file": ("input.jsonl", data, "application/jsonl")}
        return self.post("/files", data={"purpose": purpose, **fields}, files=files)

    def submit(self, data: bytes, **body: Any) -> str:
        """Uploads a batch file and creates its batch; the batch's id."""
        file_id = self.upload(data).raise_for_status().json()["id"]
        return str(self.post("/batches", json=batch_body(file_id, **body)).raise_for_status().json()["id"])

    def batch(self, batch_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.get(f"/batches/{batch_id}").raise_for_status().json()
        return found

    def finished(self, batch_id: str) -> dict[str, Any]:
        """The batch once it has ended."""
        return until(lambda: self.batch(batch_id), lambda batch: batch["status"] in ENDED)

    def lines(self, file_id: str | None) -> list[dict[str, Any]]:
        """The lines of an output or error file."""
        if file_id is None:
            return []
        content = self.get(f"/files/{file_id}/content").raise_for_status().content
        return [orjson.loads(line) for line in content.split(b"\n") if line]


ENDED = ("completed", "failed", "expired", "cancelled")


def batch_body(file_id: str, **body: Any) -> dict[str, Any]:
    return {"input_file_id": file_id, "endpoint": "/v1/embeddings", "completion_window": "24h", **body}


def request_line(custom_id: str, value: object, model: str = STATIC, **body: Any) -> dict[str, Any]:
    return {
        "custom_id": custom_id,
        "method": "POST",
        "url": "/v1/embeddings",
        "body": {"model": model, "input": value, **body},
    }


def jsonl(lines: Iterable[object]) -> bytes:
    return b"".join(orjson.dumps(line) + b"\n" for line in lines)


def until(look: Callable[[], Any], good: Callable[[Any], bool]) -> Any:
    """What `look` gives once it is `good`; fails after a minute."""
    deadline = time.monotonic() + _DEADLINE_S
    while not good(found := look()):
        assert time.monotonic() < deadline, found
        time.sleep(0.01)
    return found


def texts(count: int, start: int = 0) -> Sequence[str]:
    """Short texts, all different."""
    words = ("vector", "index", "batch", "shard", "chunk", "token", "recall", "engine", "store", "query")
    return [f"{words[n % 10]} number {n} of the {words[n // 10 % 10]}" for n in range(start, start + count)]


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    """One engine for all tests that neither stop it nor count what is in it."""
    process = EngineProcess(tmp_path_factory.mktemp("engine")).start("--model", STATIC)
    yield process
    process.close()


@pytest.fixture
def new_engine(tmp_path: Path) -> Iterator[Callable[..., EngineProcess]]:
    """Makes engines of this test alone: `new_engine(*arguments)`, not started yet."""
    made: list[EngineProcess] = []

    def make(*arguments: str) -> EngineProcess:
        made.append(EngineProcess(tmp_path / "engine", *arguments))
        return made[-1]

    yield make
    for process in made:
        process.close()


@pytest.fixture
def sdk(engine: EngineProcess) -> Iterator[openai.OpenAI]:
    """The official client, driving the shared engine, without retries that would hide a failure."""
    client = openai.OpenAI(base_url=engine.url, api_key="any", max_retries=0)
    yield client
    client.close()
