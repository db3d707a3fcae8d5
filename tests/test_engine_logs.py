"""The engine's log: one line an event, whatever it holds; no secret, and nothing of a client's data."""

import io
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest

from embedfill.engine.telemetry import logs
from tests.engine_fixtures import STATIC, EngineProcess, jsonl, request_line

TEXT_LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (DEBUG|INFO|WARNING|ERROR) \S.*|    .*")
NASTY = 'a\nb\rc\x1b[31m\u2028\u0085\x00"\\ \ud800'


@pytest.fixture
def written() -> Iterator[Callable[..., io.StringIO]]:
    """Configures the logs onto a stream, and puts everything back."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level, logs.LOG.level)

    def configure(form: Literal["text", "json"], level: str = "info") -> io.StringIO:
        root.handlers[:] = []
        stream = io.StringIO()
        logs.configure(form, level, stream)
        return stream

    yield configure
    logging.captureWarnings(False)
    root.handlers[:], root.level, logs.LOG.level = before
    logs.LOG.setLevel(before[2])


def test_text(written: Callable[..., io.StringIO]) -> None:
    stream = written("text")
    logs.info("request", method="GET", path="/v1/files/{id}", ms=1.5, owner=None, words="two words", ok=True)
    (line,) = stream.getvalue().splitlines()
    assert line.endswith('Z INFO request method=GET path=/v1/files/{id} ms=1.5 words="two words" ok=True')


def test_json(written: Callable[..., io.StringIO]) -> None:
    stream = written("json")
    logs.warning("trouble", status=502, path=Path("x"), none=None)
    found = json.loads(stream.getvalue())
    assert found.pop("time").endswith("Z")
    assert found == {"level": "warning", "event": "trouble", "status": 502, "path": "x"}


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_line_stays_a_line(written: Callable[..., io.StringIO], form: Literal["text", "json"]) -> None:
    stream = written(form)
    logs.info("event", value=NASTY, long="x" * 10_000)
    logging.getLogger("a.library").error("Exception %s\n", NASTY)
    logs.error("crash", ValueError(NASTY))
    text = stream.getvalue()
    assert text.isascii() or form == "text"
    lines = text.splitlines()
    assert text.count("\n") == len(lines) and len(lines[0]) < 1_000
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028]", text)
    for line in lines:
        assert TEXT_LINE.fullmatch(line) if form == "text" else json.loads(line)["level"]
    assert "ValueError" in text and (form == "text" or len(lines) == 3)


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_looks_like_a_key_is_starred(written: Callable[..., io.StringIO], form: Literal["text", "json"]) -> None:
    stream = written(form)
    logs.error("e", ValueError("header b'Bearer tok-9876543210' of https://u:hunter2@x.org/p?key=q1w2e3"), api_key="k1")
    logs.info("e", url="https://x.org/?token=q1w2e3", words="sk-proj-abcdefghij and Basic dTpw")
    logging.getLogger("httpx").warning("sent Authorization: Bearer tok-9876543210")
    text = stream.getvalue()
    for secret in ("9876543210", "hunter2", "q1w2e3", "k1", "abcdefghij", "dTpw"):
        assert secret not in text
    assert "x.org/p" in text and "***" in text


def test_levels_and_what_libraries_say(written: Callable[..., io.StringIO]) -> None:
    stream = written("json", "warning")
    logs.debug("no")
    logs.info("no")
    logging.getLogger("httpx").info("no")
    logs.warning("yes")
    logging.getLogger("asyncio").warning("yes")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("yes", stacklevel=1)
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [one.get("logger") for one in found] == [None, "asyncio", "py.warnings"]
    assert written("text", "debug") is not None
    logs.debug("now")


def test_events_of_a_request_carry_its_id(written: Callable[..., io.StringIO]) -> None:
    stream = written("json")
    token = logs.REQUEST_ID.set("req_1")
    logs.info("inside")
    logs.REQUEST_ID.reset(token)
    logs.info("outside")
    inside, outside = map(json.loads, stream.getvalue().splitlines())
    assert inside["request_id"] == "req_1" and "request_id" not in outside


def test_a_running_engine(new_engine: Callable[..., EngineProcess], capfd: pytest.CaptureFixture[str]) -> None:
    key = "a-secret-that-looks-like-nothing"
    engine = new_engine("--model", STATIC, "--log-format", "json", "--api-key", key).start()
    good = {"Authorization": f"Bearer {key}"}
    engine.http.headers.update(good)
    answers = [
        engine.get("/models?after=secret-query"),
        httpx.get(engine.url + "/files/a%0d%0aINFO%20forged", headers={"Authorization": "Bearer wrong-secret"}),
        engine.post("/embeddings", json={"model": STATIC, "input": "secret text"}),
    ]
    batch = engine.finished(engine.submit(jsonl([request_line("secret-id", "secret text")]), metadata={"s": "secret"}))
    httpx.get(engine.url.removesuffix("/v1") + "/healthz").raise_for_status()
    assert engine.stop() == 0
    events = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    requests = {one["request_id"]: one for one in events if one["event"] == "request"}
    told = [requests[answer.headers["x-request-id"]] for answer in answers]
    assert [(one["method"], one["path"], one["status"]) for one in told] == [
        ("GET", "/v1/models", 200),
        ("GET", "/v1/files/a\r\nINFO forged", 401),
        ("POST", "/v1/embeddings", 200),
    ]
    assert [one.get("owner") for one in told] == ["default", None, "default"]
    assert told[2]["bytes"] == len(answers[2].content) and 0 < told[2]["ms"] < 60_000
    moves = [one["status"] for one in events if one["event"] == "batch" and one["id"] == batch["id"]]
    assert moves == ["validating", "in_progress", "finalizing", "completed"]
    assert events[-1]["event"] == "stopped"
    assert not any("/healthz" in str(one) for one in events)
    assert "secret" not in json.dumps(events)


def test_a_stores_engine_says_nothing_while_all_is_well(
    new_engine: Callable[..., EngineProcess], capfd: pytest.CaptureFixture[str]
) -> None:
    engine = new_engine("--while-used", "--model", STATIC).start()
    assert engine.get("/models").is_success
    assert engine.wait() == 0
    assert capfd.readouterr().err == ""


def test_every_answer_has_an_id(engine: EngineProcess) -> None:
    answers: list[Any] = [
        engine.get("/models"),
        engine.get("/nothing"),
        engine.post("/models"),
        engine.post("/batches", content=b"no json"),
        engine.http.get(engine.url.removesuffix("/v1") + "/healthz"),
    ]
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"req_[0-9a-f]{32}", one) for one in ids)
    assert all(len(answer.headers.get_list("x-request-id")) == 1 for answer in answers)
