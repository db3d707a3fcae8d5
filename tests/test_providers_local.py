"""The store's own engine: found or started, revived, shared, and gone when nobody needs it, also after crashes."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import orjson
import pytest

from embedfill.errors import ProviderError
from embedfill.providers.client import BatchClient
from embedfill.providers.local import LocalEngine
from tests.engine_fixtures import until
from tests.provider_fixtures import Provider, refuse, say

_HOLD = """
import sys, time
from pathlib import Path
from embedfill.providers.local import LocalEngine

with LocalEngine(Path(sys.argv[1])) as engine:
    print(engine.url, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "store" / "engine"


@pytest.fixture
def engine(data: Path) -> Iterator[LocalEngine]:
    with LocalEngine(data) as started:
        yield started


def pid(data: Path) -> int:
    return int(orjson.loads((data / "engine.json").read_bytes())["pid"])


def answers(url: str) -> bool:
    try:
        return httpx.get(url.removesuffix("/v1") + "/healthz", timeout=5, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def hold(data: Path) -> "subprocess.Popen[str]":
    """Another process that uses the engine until its standard input ends."""
    command = [sys.executable, "-c", _HOLD, str(data)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_is_started_and_stopped(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    with LocalEngine(data) as engine:
        url, number = engine.url, pid(data)
        assert answers(url) and url.startswith("http://127.0.0.1:")
    assert not answers(url)
    assert not Path(f"/proc/{number}").exists()


def test_a_full_log_makes_room_and_the_last_one_is_kept(data: Path) -> None:
    data.mkdir(parents=True)
    (data / "engine.log").write_bytes(b"x" * 1_000_001)
    with LocalEngine(data):
        pass
    # It says where it is on stdout, and nothing else while all is well.
    assert (data / "engine.log").read_bytes().startswith(b"listening on ")
    assert (data / "engine.log").read_bytes().count(b"\n") == 1
    assert (data / "engine.log.1").stat().st_size == 1_000_001


def test_comes_back_at_its_url_with_its_key_and_its_batches(data: Path, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"custom_id": "a"}\n')
    with LocalEngine(data) as first, BatchClient(first.url, first.key) as client:
        made = client.create_batch(client.upload(tmp_path / "x.jsonl", "x.jsonl").id, {"a": "b"})
    with LocalEngine(data) as second, BatchClient(second.url, second.key) as client:
        assert [batch.id for batch in client.batches()] == [made.id]
    assert (first.url, first.key) == (second.url, second.key)


def test_its_key_is_its_owners_alone(engine: LocalEngine, data: Path) -> None:
    assert (data / "key").stat().st_mode & 0o777 == 0o600
    assert len(engine.key.get_secret_value()) > 30
    assert httpx.get(engine.url + "/batches").status_code == 401
    assert engine.key.get_secret_value() not in repr(vars(engine))


def test_a_running_one_is_found(engine: LocalEngine, data: Path) -> None:
    number = pid(data)
    with LocalEngine(data) as other:
        assert other.url == engine.url
    assert pid(data) == number and answers(engine.url)  # the second user's end is not the engine's


def test_outlives_the_user_that_started_it(data: Path) -> None:
    first, second = LocalEngine(data), LocalEngine(data)
    with second:
        pass  # so that each has the directory before
    first.__enter__()
    with second:
        number = pid(data)
        first.__exit__(None, None, None)
        assert answers(second.url) and pid(data) == number
    until(lambda: answers(second.url), lambda found: not found)
    assert first._process is not None and first._process.wait(10) == 0


def test_a_killed_one_is_revived_at_its_url(engine: LocalEngine, data: Path) -> None:
    url, number = engine.url, pid(data)
    os.kill(number, signal.SIGKILL)
    engine.revive()
    assert (engine.url, pid(data)) == (url, pid(data)) and pid(data) != number
    assert answers(url)


def test_the_client_revives_it(engine: LocalEngine, data: Path) -> None:
    with BatchClient(engine.url, engine.key) as client:
        client.revive = engine.revive
        assert list(client.batches()) == []
        os.kill(pid(data), signal.SIGKILL)
        assert list(client.batches()) == []


def test_one_that_another_user_started_is_revived_too(data: Path) -> None:
    other = hold(data)
    assert other.stdout is not None
    url = other.stdout.readline().strip()
    with LocalEngine(data) as engine:
        assert engine.url == url
        os.kill(pid(data), signal.SIGKILL)
        engine.revive()
        assert engine.url == url and answers(url)
        other.communicate("")
        assert answers(url)
    assert not answers(url)


def test_ends_soon_after_its_user_was_killed(data: Path) -> None:
    user = hold(data)
    assert user.stdout is not None
    url = user.stdout.readline().strip()
    number = pid(data)
    assert answers(url)
    user.kill()
    user.communicate()
    until(lambda: Path(f"/proc/{number}").exists(), lambda found: not found)
    assert not answers(url)


def test_two_that_start_at_once_share_one_engine(data: Path) -> None:
    users = [hold(data) for _ in range(3)]
    urls = {user.stdout.readline().strip() for user in users if user.stdout is not None}
    assert len(urls) == 1
    for user in users:
        user.communicate("")
        assert user.returncode == 0
    until(lambda: answers(*urls), lambda found: not found)


def test_one_that_does_not_answer_yet_is_waited_for(data: Path) -> None:
    """Another engine has the directory but has not announced itself: our own cannot start, and that is no error."""
    data.mkdir(parents=True)
    log = data / "engine.log"
    with (data / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        def let_go() -> None:
            until(lambda: log.exists() and log.read_text(), lambda words: words and "another engine runs" in words)
            fcntl.flock(lock, fcntl.LOCK_UN)

        thread = threading.Thread(target=let_go)
        thread.start()
        with LocalEngine(data) as engine:
            assert answers(engine.url)
        thread.join()


@pytest.mark.parametrize("notice", [b"", b"garbage", b"[]", b'{"url": 7}', b'{"url": "http://127.0.0.1:9/v1"}'])
def test_a_notice_that_says_nothing_does_no_harm(data: Path, notice: bytes) -> None:
    data.mkdir(parents=True)
    (data / "engine.json").write_bytes(notice)
    with LocalEngine(data) as engine:
        assert answers(engine.url)


def test_another_server_at_its_old_port_is_not_taken_for_it(data: Path, provider: Provider) -> None:
    data.mkdir(parents=True)
    (data / "engine.json").write_bytes(orjson.dumps({"pid": os.getpid(), "url": provider.url}))
    provider.script("GET", "/healthz", *[say(b"{}")] * 50)
    provider.script("GET", "/models", *[refuse(401)] * 50)
    with LocalEngine(data) as engine:
        assert engine.url != provider.url and answers(engine.url)


def test_one_that_cannot_start_says_where_its_log_is(data: Path) -> None:
    (data / "lock").mkdir(parents=True)
    with pytest.raises(ProviderError, match="exit code 1") as raised, LocalEngine(data):
        pass
    log = data / "engine.log"
    assert str(log) in raised.value.hint
    assert "cannot be the engine's directory" in log.read_text()


@pytest.mark.parametrize("place", ["", "below/it"])
def test_a_directory_that_is_a_file(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / place
    with pytest.raises(ProviderError, match=str(path)) as raised, LocalEngine(path):
        pass
    assert "engine.data" in raised.value.hint


def test_after_a_failed_start_nothing_is_held(data: Path) -> None:
    (data / "lock").mkdir(parents=True)
    engine = LocalEngine(data)
    with pytest.raises(ProviderError), engine:
        pass
    assert engine._users is not None and engine._users.closed
    (data / "lock").rmdir()
    with LocalEngine(data) as again:
        assert answers(again.url)
