"""Webhooks: who is told of what, verified by the official client, and told again until the receiver has taken it."""

import base64
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import openai
import pytest

from embedfill.engine.settings import WebhookSettings
from embedfill.engine.work import webhooks
from embedfill.engine.work.webhooks import EVENTS, Hook, Notifier, hooks_of, record
from embedfill.errors import ConfigError
from tests.bench_fixtures import Bench, execute, let_expire
from tests.engine_fixtures import STATIC, EngineProcess, jsonl, request_line, until

SECRET = "whsec_" + base64.b64encode(b"a signing secret of a test").decode()
GOOD = jsonl([request_line("a", "text")])


class Receiver:
    """Answers with `statuses`, one after the other, then 200; keeps what verified."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.tried: list[tuple[str, bytes]] = []  # id and body
        self.taken: list[Any] = []
        self.answering = threading.Event()
        self.answering.set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.take(self)

            do_GET = do_POST  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def take(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("content-length") or 0))
        self.tried.append((str(request.headers["webhook-id"]), body))
        self.answering.wait(10)
        status = self.statuses.pop(0) if self.statuses else 200
        event = openai.OpenAI(api_key="none").webhooks.unwrap(body, request.headers, secret=SECRET)
        if status == 200:
            self.taken.append(event)
        request.send_response(status)
        if status == 302:
            request.send_header("location", self.url + "/elsewhere")
        request.send_header("content-length", "0")
        request.end_headers()

    def close(self) -> None:
        self.answering.set()
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


class Told:
    """A bench whose ends one receiver is told of."""

    def __init__(self, root: Path, url: str, events: tuple[str, ...] = EVENTS) -> None:
        hooks = hooks_of([WebhookSettings(url=url, secret_env="HOOK", events=list(events))], {"HOOK": SECRET})
        self.bench = Bench(root, ended=partial(record, hooks))
        self.notifier = Notifier(self.bench.database, hooks[0])

    def ended(self, data: bytes = GOOD) -> str:
        batch_id = self.bench.batch(data)
        self.bench.end(batch_id)
        return batch_id

    def due(self) -> None:
        """The time of the next try has come."""
        execute(self.bench.root, "UPDATE events SET due_at = 0")

    def events(self) -> list[tuple[Any, ...]]:
        rows = execute(self.bench.root, "SELECT tries, done_at IS NOT NULL, due_at FROM events ORDER BY seq")
        return [tuple(row) for row in rows]

    def close(self) -> None:
        self.notifier.close()
        self.bench.close()


@pytest.fixture
def told(tmp_path: Path, receiver: Receiver) -> Iterator[Told]:
    made = Told(tmp_path, receiver.url)
    yield made
    made.close()


def test_every_end_is_told_once(told: Told, receiver: Receiver) -> None:
    completed, failed = told.ended(), told.bench.batch(b"no json\n")
    expired, cancelled, early = (told.bench.batch(GOOD, valid) for valid in (True, True, False))
    let_expire(told.bench.root, expired)
    for one in (cancelled, early):
        told.bench.batches.cancel(one, "")
    told.bench.batches.refuse(early, [], None)
    for one in (expired, cancelled):
        told.bench.end(one)
    while told.notifier.step():
        pass
    assert {(event.data.id, event.type) for event in receiver.taken} == {
        (completed, "batch.completed"),
        (failed, "batch.failed"),
        (expired, "batch.expired"),
        (cancelled, "batch.cancelled"),
        (early, "batch.cancelled"),
    }
    assert len(receiver.tried) == 5 and not told.notifier.step()
    event, (event_id, body) = receiver.taken[0], receiver.tried[0]
    assert (event.id, event.object) == (event_id, "event") and abs(event.created_at - time.time()) < 60
    assert set(event.to_dict()) == {"id", "object", "created_at", "type", "data"} and b"text" not in body


@pytest.mark.parametrize("status", [500, 404, 302, 429])
def test_what_was_not_taken_is_told_again(told: Told, receiver: Receiver, status: int) -> None:
    receiver.statuses = [status, status]
    told.ended()
    for _ in range(2):
        assert told.notifier.step() and not told.notifier.step()  # not at once
        told.due()
    assert told.notifier.step()
    assert len(receiver.taken) == 1 and len(set(receiver.tried)) == 1  # the same id, the same bytes; nowhere else
    assert len(receiver.tried) == 3
    told.due()
    assert not told.notifier.step()


def test_pauses_grow_to_an_hour(told: Told, receiver: Receiver) -> None:
    receiver.statuses = [500] * 20
    told.ended()
    pauses = []
    for _ in range(20):
        assert told.notifier.step()
        pauses.append(told.events()[0][2] - time.time())
        told.due()
    assert pauses[0] < 1 < pauses[3] < 10 < pauses[6]
    assert 1_700 < pauses[-1] < 3_600


@pytest.mark.parametrize("gone", [True, False])
def test_a_receiver_is_given_up(told: Told, receiver: Receiver, gone: bool) -> None:
    receiver.statuses = [410 if gone else 500]
    told.ended()
    if not gone:
        execute(told.bench.root, "UPDATE events SET created_at = created_at - 3 * 86400")
    assert told.notifier.step()
    told.due()
    assert not told.notifier.step() and receiver.taken == []


def test_a_receiver_that_is_away_or_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "_TIMEOUT_S", 0.2)
    receiver = Receiver()
    told = Told(tmp_path, receiver.url)
    receiver.answering.clear()
    told.ended()
    assert told.notifier.step()
    receiver.close()
    told.due()
    assert told.notifier.step()
    assert [row[:2] for row in told.events()] == [(2, 0)]
    told.close()


def test_only_what_was_asked_for(tmp_path: Path, receiver: Receiver) -> None:
    told = Told(tmp_path, receiver.url, ("batch.failed",))
    told.ended()
    told.bench.batch(b"no json\n")
    assert told.notifier.step() and not told.notifier.step()
    assert [event.type for event in receiver.taken] == ["batch.failed"]
    told.close()


def test_settings() -> None:
    def hook(**changed: Any) -> WebhookSettings:
        return WebhookSettings(**{"url": "https://example.org/a", "secret_env": "HOOK", **changed})

    (made,) = hooks_of([hook()], {"HOOK": SECRET})
    assert made.key == b"a signing secret of a test" and "signing" not in repr(made)
    assert hooks_of([hook()], {"HOOK": "plain words"})[0].key == b"plain words"
    for settings, environ, words in (
        ([hook()], {}, r"webhooks\[0\].secret_env .*HOOK.* not set"),
        ([hook()], {"HOOK": "whsec_"}, "whsec_ and base64"),
        ([hook()], {"HOOK": "whsec_*"}, "whsec_ and base64"),
        ([hook(), hook()], {"HOOK": SECRET}, "twice"),
        ([hook(events=["batch.started"])], {"HOOK": SECRET}, r"batch.started.*batch.completed"),
    ):
        with pytest.raises(ConfigError, match=words):
            hooks_of(settings, environ)


def test_the_signature_is_that_of_the_standard() -> None:
    """The example of the Standard Webhooks specification's own libraries."""
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    hook = Hook("http://x", key, frozenset())
    original, time.time = time.time, lambda: 1614265330.0
    try:
        headers = hook.headers("msg_p5jXN8AQM9LWM0D4loKWxJek", b'{"test": 2432232314}')
    finally:
        time.time = original
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_an_engine_that_is_killed_tells_it_afterwards(
    new_engine: Callable[..., EngineProcess], receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    config = tmp_path / "engine.toml"
    config.write_text(f'[[engine.webhooks]]\nurl = "{receiver.url}"\nsecret_env = "HOOK_SECRET"\n')
    receiver.statuses = [500, 500]
    engine = new_engine("--config", str(config)).start("--model", STATIC)
    batch_id = engine.submit(GOOD)
    until(lambda: len(receiver.tried), lambda tries: tries >= 2)
    engine.kill()
    assert receiver.taken == []
    engine.start()
    until(lambda: len(receiver.taken), lambda taken: taken > 0)
    assert [(event.type, event.data.id) for event in receiver.taken] == [("batch.completed", batch_id)]
    assert len(set(receiver.tried)) == 1
    assert SECRET not in "".join(engine.get("/metrics").text) and engine.stop() == 0
