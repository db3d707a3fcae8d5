"""The engine as a process: what it prints, its lock and notice, its key, and when it leaves."""

import fcntl
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx
import orjson
import pytest
from click.testing import CliRunner

from embedfill.cli.engine import command
from embedfill.errors import UsageError
from tests.engine_fixtures import EngineProcess, jsonl, request_line, until


def test_announcement_notice_and_regular_end(new_engine: Callable[..., EngineProcess]) -> None:
    engine = new_engine().start()
    assert engine.announcement == f"listening on {engine.url}\n"
    port = int(engine.url.removesuffix("/v1").rpartition(":")[2])
    assert engine.url == f"http://127.0.0.1:{port}/v1"
    assert httpx.get(f"http://127.0.0.1:{port}/healthz").json()["status"] == "ok"
    notice = orjson.loads((engine.data / "engine.json").read_bytes())
    assert engine.process is not None
    assert notice == {"pid": engine.process.pid, "port": port, "url": engine.url}
    assert engine.stop() == 0
    assert not (engine.data / "engine.json").exists()


def test_an_interrupt_is_a_regular_end(new_engine: Callable[..., EngineProcess]) -> None:
    engine = new_engine().start()
    assert engine.process is not None
    engine.process.send_signal(2)
    assert engine.wait() == 0


def test_it_comes_back_at_its_old_url(new_engine: Callable[..., EngineProcess]) -> None:
    engine = new_engine("--port", "0").start()
    url = engine.url
    for end in (engine.kill, engine.stop):
        end()
        assert engine.start().url == url
    engine.stop()
    with socket.socket() as other:  # somebody else has the port now
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", int(url.removesuffix("/v1").rpartition(":")[2])))
        other.listen()
        assert engine.start().url != url
        assert engine.get("/models").is_success


def test_a_long_request_does_not_hold_up_the_end(new_engine: Callable[..., EngineProcess]) -> None:
    engine = new_engine("--model", "all-MiniLM-L6-v2").start()
    body = {
        "model": "all-MiniLM-L6-v2",
        "input": ["many words " * 100] * 1 + [f"{n} words " * 100 for n in range(1500)],
    }
    thread = threading.Thread(target=lambda: _ignore_broken(lambda: engine.post("/embeddings", json=body)))
    thread.start()
    until(lambda: engine.get("/models").elapsed, bool)  # the loop is free; the request is on its way
    time.sleep(0.5)
    began = time.monotonic()
    assert engine.stop() == 0
    assert time.monotonic() - began < 20
    thread.join()


def _ignore_broken(call: Callable[[], object]) -> None:
    with suppress(httpx.HTTPError):
        call()


def test_a_taken_port_that_was_asked_for(new_engine: Callable[..., EngineProcess], tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        failed = _run("--data", str(tmp_path / "x"), "--port", str(other.getsockname()[1]))
    assert failed.returncode == 1
    assert "cannot listen" in failed.stderr and "Traceback" not in failed.stderr


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "embedfill.engine", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_one_engine_per_directory(new_engine: Callable[..., EngineProcess]) -> None:
    engine = new_engine().start()
    second = _run("--data", str(engine.data))
    assert (second.returncode, second.stdout) == (1, "")
    assert "another engine runs on" in second.stderr and "Traceback" not in second.stderr
    assert engine.get("/models").is_success


def test_it_leaves_when_nobody_uses_it(new_engine: Callable[..., EngineProcess]) -> None:
    engine = new_engine("--while-used")
    engine.data.mkdir()
    users = [(engine.data / "users.lock").open("ab") for _ in range(2)]
    for user in users:
        fcntl.flock(user, fcntl.LOCK_SH)
    engine.start()
    users[0].close()
    assert engine.process is not None
    with pytest.raises(subprocess.TimeoutExpired):
        engine.process.wait(timeout=4.0)  # past the grace: one user is still there
    users[1].close()
    with (engine.data / "users.lock").open("ab") as late:
        # A new user waits until the engine has gone, or gets in before it looked.
        until(lambda: _holds(late) or engine.process is None or engine.process.poll() is not None, bool)
    assert engine.wait() == 0
    assert not (engine.data / "engine.json").exists()


def _holds(late: object) -> bool:
    """Whether somebody else (the leaving engine) holds the users' lock alone."""
    try:
        fcntl.flock(late, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(late, fcntl.LOCK_UN)
    return False


def test_a_killed_user_counts_as_gone(new_engine: Callable[..., EngineProcess]) -> None:
    engine = new_engine("--while-used")
    engine.data.mkdir()
    hold = "import fcntl, sys, time; f = open(sys.argv[1], 'ab'); fcntl.flock(f, 1); print(flush=True); time.sleep(60)"
    user = subprocess.Popen([sys.executable, "-c", hold, str(engine.data / "users.lock")], stdout=subprocess.PIPE)
    assert user.stdout is not None
    user.stdout.readline()
    engine.start()
    user.kill()
    user.wait()
    user.stdout.close()
    assert engine.wait() == 0


def test_the_key(new_engine: Callable[..., EngineProcess]) -> None:
    engine = new_engine("--api-key", "sk-right").start()
    assert httpx.get(engine.url.removesuffix("/v1") + "/healthz").is_success
    for headers in (
        {},
        {"Authorization": "Bearer sk-wrong"},
        {"Authorization": "sk-right"},
        {"Authorization": "Bearer"},
    ):
        for path in ("/models", "/files", "/nothing"):
            response = engine.get(path, headers=headers)
            assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")
    good = {"Authorization": "Bearer sk-right"}
    assert engine.get("/models", headers=good).is_success
    assert engine.get("/nothing", headers=good).status_code == 404
    assert engine.stop() == 0
    assert b"sk-right" not in b"".join(path.read_bytes() for path in engine.data.iterdir() if path.is_file())


def test_the_key_from_the_environment(
    new_engine: Callable[..., EngineProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDFILL_ENGINE_KEY", "sk-env")
    engine = new_engine().start()
    assert engine.get("/models").status_code == 401
    assert engine.get("/models", headers={"Authorization": "Bearer sk-env"}).is_success


def test_without_a_key_any_key_will_do(engine: EngineProcess) -> None:
    assert engine.get("/models", headers={"Authorization": "Bearer whatever"}).is_success


def test_another_interface_needs_a_key(tmp_path: Path) -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        result = CliRunner().invoke(command, ["--data", str(tmp_path / "x"), "--host", host])
        assert isinstance(result.exception, UsageError) and "--api-key" in result.exception.hint
    assert not (tmp_path / "x").exists()
    refused = _run("--data", str(tmp_path / "x"), "--host", "0.0.0.0")
    assert refused.returncode == 2


def test_wrong_arguments() -> None:
    assert _run().returncode == 2
    unknown = _run("--data", "x", "--port", "70000")
    assert unknown.returncode == 2 and "70000" in unknown.stderr
    impossible = _run("--data", os.devnull + "/data")
    assert impossible.returncode == 1
    assert "cannot be the engine's directory" in impossible.stderr and "Traceback" not in impossible.stderr


def test_an_unknown_model_to_preload(tmp_path: Path) -> None:
    failed = _run("--data", str(tmp_path / "x"), "--model", "gpt-none")
    assert failed.returncode == 2
    assert "gpt-none" in failed.stderr and "Traceback" not in failed.stderr
    assert not (tmp_path / "x").exists()


def test_a_crash_inside_ends_the_process(new_engine: Callable[..., EngineProcess]) -> None:
    """The disk failing under the worker, here: its spool folder made unusable. An engine that cannot work must not
    look alive; the next one goes on."""
    engine = new_engine().start()
    spool = engine.data / "spool"
    spool.rmdir()
    spool.write_bytes(b"")
    engine.submit(jsonl([request_line("a", "text")]))
    assert engine.wait() == 1
    spool.unlink()
    engine.start()
    (batch,) = engine.get("/batches").json()["data"]
    assert engine.finished(batch["id"])["status"] == "completed"
