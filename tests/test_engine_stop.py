"""The end of an engine's process: what is in hand is done and nothing new is begun, within a bound; a second signal
ends it at once. What was not done is done at the next start, and nothing is done twice."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.engine_fixtures import EngineProcess, jsonl, until
from tests.upstream_fixtures import FakeUpstream, Hang, body_for, request_for, routes_toml

CHAT = "/v1/chat/completions"
LINES = 12
CONCURRENCY = 4


def routed(new_engine: Callable[..., EngineProcess], tmp_path: Path, upstream: FakeUpstream) -> EngineProcess:
    config = routes_toml(tmp_path, {"gpt-*": {"base_url": upstream.url, "concurrency": CONCURRENCY}})
    return new_engine("--config", str(config))


def submit(engine: EngineProcess) -> str:
    return engine.submit(jsonl(request_for(CHAT, f"r{n}", f"text {n}") for n in range(LINES)), endpoint=CHAT)


def test_what_is_in_hand_is_done_and_paid_for_once(
    new_engine: Callable[..., EngineProcess], tmp_path: Path, upstream: FakeUpstream
) -> None:
    upstream.act = lambda _asked: Hang(1.0)
    engine = routed(new_engine, tmp_path, upstream).start()
    batch_id = submit(engine)
    until(lambda: upstream.at_once, lambda count: count == CONCURRENCY)
    waiting, answers = _asking(engine)
    until(lambda: [asked.said for asked in upstream.asked], lambda said: "somebody waits" in said)
    assert engine.stop() == 0
    waiting.join()
    assert answers[0].status_code == 200 and upstream.broken_off == 0
    asked = len(upstream.asked)
    assert asked < LINES  # nothing new was begun
    upstream.act = lambda _asked: None
    engine.start()
    assert engine.batch(batch_id)["request_counts"]["completed"] >= asked - 1
    assert engine.finished(batch_id)["request_counts"] == {"total": LINES, "completed": LINES, "failed": 0}
    assert set(Counter(asked.said for asked in upstream.asked).values()) == {1}


def test_it_does_not_wait_for_ever(
    new_engine: Callable[..., EngineProcess],
    tmp_path: Path,
    upstream: FakeUpstream,
    capfd: pytest.CaptureFixture[str],
) -> None:
    upstream.act = lambda _asked: Hang(60.0)
    engine = routed(new_engine, tmp_path, upstream).start("--grace", "0.5")
    waiting, answers = _asking(engine)
    until(lambda: upstream.at_once, lambda count: count == 1)
    batch_id = submit(engine)
    until(lambda: upstream.at_once, lambda count: count == CONCURRENCY)
    began = time.monotonic()
    assert engine.stop() == 0
    assert time.monotonic() - began < 10
    waiting.join()
    assert answers[0].status_code == 503 and answers[0].headers["retry-after"] == "5"
    assert answers[0].json()["error"]["code"] == "engine_stopping"
    log = capfd.readouterr().err
    assert "stopped all_done=False" in log and "Traceback" not in log
    upstream.act = lambda _asked: None
    engine.start()
    assert engine.finished(batch_id)["request_counts"] == {"total": LINES, "completed": LINES, "failed": 0}


def _asking(engine: EngineProcess) -> tuple[threading.Thread, list[httpx.Response]]:
    """A client that waits for an answer, which will be in the list."""
    answers: list[httpx.Response] = []
    body = body_for(CHAT, "somebody waits")
    waiting = threading.Thread(target=lambda: answers.append(engine.post("/chat/completions", json=body)))
    waiting.start()
    return waiting, answers


def test_a_second_signal_is_obeyed_at_once(
    new_engine: Callable[..., EngineProcess], tmp_path: Path, upstream: FakeUpstream
) -> None:
    upstream.act = lambda _asked: Hang(60.0)
    engine = routed(new_engine, tmp_path, upstream).start("--grace", "60")
    batch_id = submit(engine)
    until(lambda: upstream.at_once, lambda count: count == CONCURRENCY)
    assert engine.process is not None
    engine.process.terminate()
    until(lambda: _refused(engine), bool)
    assert engine.process.poll() is None
    began = time.monotonic()
    assert engine.stop() == 130
    assert time.monotonic() - began < 10
    upstream.act = lambda _asked: None
    assert engine.start().finished(batch_id)["request_counts"]["completed"] == LINES


def _refused(engine: EngineProcess) -> bool:
    """Whether it takes no connection any more."""
    try:
        httpx.get(engine.url + "/models")
    except httpx.TransportError:
        return True
    return False


def test_a_closed_terminal_is_a_regular_end(new_engine: Callable[..., EngineProcess]) -> None:
    engine = new_engine().start()
    assert engine.process is not None
    os.kill(engine.process.pid, signal.SIGHUP)
    assert engine.wait() == 0
    assert not (engine.data / "engine.json").exists()


def test_what_it_writes_is_for_its_own_user(new_engine: Callable[..., EngineProcess]) -> None:
    engine = new_engine().start()
    file_id = engine.upload(b"{}\n").json()["id"]
    for path in (engine.data / "engine.db", engine.data / "files" / file_id, engine.data / "files"):
        assert path.stat().st_mode & 0o077 == 0
