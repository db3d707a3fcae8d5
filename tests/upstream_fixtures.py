"""A small OpenAI-like server on 127.0.0.1 that answers all endpoints, counts what it is asked, and fails as it is told."""

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from embedfill.batchapi.models import ENDPOINTS
from tests.engine_fixtures import EngineProcess, until

KEY = "sk-upstream-0123456789abcdef"
KEY_ENV = "TEST_UPSTREAM_KEY"


@dataclass
class Asked:
    """One request as it came. `nth`: how often the same was asked before, and this time."""

    path: str
    body: dict[str, Any]
    headers: dict[str, str]
    nth: int
    port: int  # of the client: each connection has its own

    @property
    def said(self) -> str:
        """What it is about: the one text of a request, wherever its endpoint has it."""
        if "messages" in self.body:
            return str(self.body["messages"][-1]["content"])
        return str(self.body.get("input", self.body.get("prompt", "")))


Act = Callable[[Asked], "Response | None"]


@dataclass
class FakeUpstream:
    """`act` gives the answer to a request; None for the usual one. `pause_s` is how long each takes."""

    url: str = ""
    act: Act = lambda _asked: None
    pause_s: float = 0.0
    asked: list[Asked] = field(default_factory=list)
    at_once: int = 0
    peak: int = 0
    broken_off: int = 0  # requests whose client went away before their answer
    _times: Counter[str] = field(default_factory=Counter)

    async def handle(self, request: Request) -> Response:
        body = orjson.loads(await request.body())
        self._times[f"{request.url.path} {body}"] += 1
        times, port = self._times[f"{request.url.path} {body}"], request.client.port if request.client else 0
        asked = Asked(request.url.path, body, dict(request.headers), times, port)
        self.asked.append(asked)
        self.at_once += 1
        self.peak = max(self.peak, self.at_once)
        try:
            return await self._answered(request, asked)
        finally:
            self.at_once -= 1

    async def _answered(self, request: Request, asked: Asked) -> Response:
        response = self.act(asked)
        pause_s = response.seconds if isinstance(response, Hang) else self.pause_s
        if pause_s and await _gone_within(request, pause_s):
            self.broken_off += 1
        if response is None or isinstance(response, Hang):
            response = streamed(asked) if asked.body.get("stream") else usual(asked)
        return response


class Hang(Response):
    """The usual answer, after a long time."""

    def __init__(self, seconds: float = 60.0) -> None:
        super().__init__()
        self.seconds = seconds


class Cut(Response):
    """An answer whose connection breaks in its middle."""

    def __init__(self, body: bytes = b'{"id": "x', media_type: str = "application/json") -> None:
        super().__init__(body, media_type=media_type)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-length", b"1000"), (b"content-type", (self.media_type or "").encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": False})


def failure(status: int, code: str = "failure", message: str = "told to fail", **headers: str) -> Response:
    """An error in the API's form."""
    error = {"error": {"message": message, "type": code, "param": None, "code": code}}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(orjson.dumps(error), status, named, media_type="application/json")


def usual(asked: Asked) -> Response:
    """What each endpoint answers; it repeats what was said."""
    model, said = asked.body.get("model", "a-model"), asked.said
    words = len(said.split())
    usage: dict[str, Any] = {"prompt_tokens": words, "total_tokens": words}
    spoken = {
        "prompt_tokens": words,
        "completion_tokens": 3,
        "total_tokens": words + 3,
        "prompt_tokens_details": {"cached_tokens": 1},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    answers: dict[str, dict[str, Any]] = {
        "/v1/embeddings": {
            "object": "list",
            "data": [{"object": "embedding", "index": 0, "embedding": [float(len(said)), 0.5]}],
            "usage": usage,
        },
        "/v1/chat/completions": {
            "object": "chat.completion",
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": said.upper()}, "finish_reason": "stop"}
            ],
            "usage": spoken,
        },
        "/v1/completions": {"object": "text_completion", "choices": [{"text": said.upper()}], "usage": spoken},
        "/v1/responses": {
            "object": "response",
            "output": [{"type": "message", "content": [{"type": "output_text", "text": said.upper()}]}],
            "usage": {
                "input_tokens": words,
                "input_tokens_details": {"cached_tokens": 1},
                "output_tokens": 3,
                "output_tokens_details": {"reasoning_tokens": 2},
                "total_tokens": words + 3,
            },
        },
        "/v1/moderations": {"results": [{"flagged": "bad" in said}]},
    }
    body = {"id": "up-1", "created": 1, "model": model, **answers[asked.path]}
    headers = {"x-request-id": f"req_{said[:20]}", "set-cookie": "session=secret", "x-ratelimit-limit-requests": "9"}
    return Response(orjson.dumps(body), 200, headers, media_type="application/json")


def streamed(asked: Asked, pause_s: float = 0.0) -> Response:
    """A chat completion, word by word."""

    async def events() -> AsyncIterator[bytes]:
        for word in asked.said.split():
            yield _event(asked, word)
            await asyncio.sleep(pause_s)
        yield b"data: [DONE]\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


def streamed_start(asked: Asked) -> bytes:
    """The first part of such a completion."""
    return _event(asked, asked.said.split()[0])


def _event(asked: Asked, word: str) -> bytes:
    chunk = {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": word}}]}
    return b"data: " + orjson.dumps({"id": "s", "created": 1, "model": asked.body["model"], **chunk}) + b"\n\n"


async def _gone_within(request: Request, seconds: float) -> bool:
    """Whether the client goes away in that time; returns at once when it does."""
    try:
        async with asyncio.timeout(seconds):
            while not await request.is_disconnected():
                await asyncio.sleep(0.01)
            return True
    except TimeoutError:
        return False


@pytest.fixture
def upstream(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeUpstream]:
    """A server of this test's own, and its key in the environment."""
    monkeypatch.setenv(KEY_ENV, KEY)
    fake = FakeUpstream()
    with serving(fake):
        yield fake


class serving:  # noqa: N801 - used as a function
    """Runs a fake upstream in a thread, on any port."""

    def __init__(self, fake: FakeUpstream) -> None:
        app = Starlette(routes=[Route(path, fake.handle, methods=["POST"]) for path in ENDPOINTS])
        config = uvicorn.Config(
            app, port=0, ws="none", lifespan="off", log_level="critical", timeout_graceful_shutdown=0
        )
        self._fake = fake
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> FakeUpstream:
        self._thread.start()
        until(lambda: self._server.started, bool)
        self._fake.url = f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}/v1"
        return self._fake

    def __exit__(self, *_failure: object) -> None:
        self._server.should_exit = True
        self._thread.join(10)


def routes_toml(folder: Path, routes: dict[str, dict[str, Any]]) -> Path:
    """A configuration with these routes, by their patterns."""
    path = folder / "engine.toml"
    parts = [f'[engine.routes."{pattern}"]' for pattern in routes]
    tables = [
        "\n".join(f"{name} = {orjson.dumps(value).decode()}" for name, value in table.items())
        for table in routes.values()
    ]
    path.write_text("\n".join(f"{head}\n{table}\n" for head, table in zip(parts, tables)))
    return path


def request_for(endpoint: str, custom_id: str, said: str, model: str = "gpt-test", **body: Any) -> dict[str, Any]:
    """A line of a batch file."""
    return {"custom_id": custom_id, "method": "POST", "url": endpoint, "body": body_for(endpoint, said, model, **body)}


def body_for(endpoint: str, said: str, model: str = "gpt-test", **body: Any) -> dict[str, Any]:
    if endpoint == "/v1/chat/completions":
        return {"model": model, "messages": [{"role": "user", "content": said}], **body}
    return {"model": model, "prompt" if endpoint == "/v1/completions" else "input": said, **body}


def by_id(lines: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    found = {line["custom_id"]: line for line in lines}
    assert len(found) == len(lines)
    return found


def all_lines(engine: EngineProcess, batch: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Output and error lines of a batch by their custom_id; none twice."""
    return by_id(engine.lines(batch["output_file_id"]) + engine.lines(batch["error_file_id"]))
