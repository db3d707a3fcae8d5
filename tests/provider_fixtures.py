"""A provider on 127.0.0.1 that keeps to the Files + Batches API until a test scripts it to misbehave.

A batch has ended as soon as it is made, unless `hold` is set or its fate says otherwise (tests/fate_fixtures.py).
"""

import hashlib
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import orjson
import pytest

from embedfill.providers import retry
from embedfill.providers.client import BatchClient
from tests.fate_fixtures import (
    DIMENSIONS,
    EMBEDDINGS,
    Books,
    Ended,
    Fate,
    Life,
    Line,
    Result,
    encoded,
    read_lines,
    texts_of_line,
    vector,
)

__all__ = ["DIMENSIONS", "vector"]  # from where they always were

ENDED_STATUSES = ("completed", "failed", "expired", "cancelled")
Model = Callable[[dict[str, Any]], tuple[int, dict[str, Any]]]


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


@dataclass
class Reply:
    """`sent` bytes of the body go out, then the connection ends (None: all of it); `reset` ends it the hard way."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    sent: int | None = None
    reset: bool = False


Script = Callable[["Provider", Request], Reply | None]  # None: the connection ends without an answer


def refuse(status: int, code: str | None = None, message: str = "no", **headers: str) -> Script:
    """The API's error envelope. Headers as keywords, `_` for `-`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _provider, _request: _error(status, code, message, named)


def say(body: bytes, status: int = 200, **headers: str) -> Script:
    """Any answer at all."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _provider, _request: Reply(status, body, dict(named))


def drop(_provider: "Provider", _request: Request) -> None:
    """Ends the connection; the request had no effect."""


def accept_and_drop(provider: "Provider", request: Request) -> None:
    """Does what was asked, and ends the connection without an answer."""
    provider.handle(request)


def accept_and_refuse(status: int) -> Script:
    """Does what was asked, and says that it failed."""

    def script(provider: "Provider", request: Request) -> Reply:
        provider.handle(request)
        return _error(status, None, "bad gateway", {})

    return script


def reset(_provider: "Provider", _request: Request) -> Reply:
    return Reply(reset=True)


def cut(at: int, **headers: str) -> Script:
    """The right answer, broken off after `at` bytes of its body, with these headers laid over it."""

    def script(provider: "Provider", request: Request) -> Reply:
        reply = provider.handle(request)
        reply.sent = at
        reply.headers |= {name.replace("_", "-"): value for name, value in headers.items()}
        return reply

    return script


class Provider:
    """State and scripts. `files` and `batches` are what it holds, `requests` all that it was asked, `books` what it did
    for money.

    What a request meets is, in this order: a script, what `mischief` says, the regular answer. What becomes of a
    batch: the next of `fates`, what `fate_of` says, the next of `endings`. All times are those of `time`.
    """

    def __init__(self, time: Callable[[], float] = time.time) -> None:
        self.url = ""
        self.requests: list[Request] = []
        self.files: dict[str, bytes] = {}
        self.names: dict[str, str] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.books = Books()
        self.time = time
        self.clock_s = 0  # how far its clock is ahead
        self.hold = False  # batches stay in progress until `finish`
        self.endings: list[str] = []  # of the next batches: a status, or a validation error's code
        self.fates: list[Fate] = []  # of the next batches
        self.fate_of: Callable[[dict[str, Any], list[Line]], Fate | None] = lambda _batch, _lines: None
        self.mischief: Callable[[Provider, Request], Script | None] = lambda _provider, _request: None
        self.refuses: set[str] = set()  # texts that fail the request they are in
        self.absent: set[str] = set()  # texts whose request never comes back
        self.late_lists = 0  # listings that a new batch is missing from
        self.tokens_of: Callable[[str], int] = lambda _text: 1
        self.max_enqueued_tokens: int | None = None  # more of them: the batch fails with token_limit_exceeded
        self.release_s = 0.0  # how long an ended batch's tokens still count
        self.models: dict[str, Model] = {}  # endpoint -> (its request's body -> status, body), over the regular ones
        self.lives: dict[str, Life] = {}
        self._made: dict[str, float] = {}
        self._running: dict[str, None] = {}
        self._late: dict[str, float] = {}
        self._unlisted: dict[str, int] = {}
        self._scripts: list[tuple[str, str, Script]] = []
        self._lock = threading.RLock()
        self._number = 0

    def script(self, method: str, path: str, *scripts: Script) -> None:
        """The next requests of that method whose path (without /v1) matches wholly are answered so, one each."""
        self._scripts += [(method, path, script) for script in scripts]

    def count(self, method: str, path: str = ".*") -> int:
        return len(self.asked(method, path))

    def asked(self, method: str, path: str = ".*") -> list[Request]:
        return [one for one in self.requests if one.method == method and re.fullmatch(path, one.path)]

    def answer(self, request: Request) -> Reply | None:
        with self._lock:
            self.requests.append(request)
            self.live()
            for number, (method, path, script) in enumerate(self._scripts):
                if method == request.method and re.fullmatch(path, request.path):
                    del self._scripts[number]
                    return script(self, request)
            chosen = self.mischief(self, request)
            return self.handle(request) if chosen is None else chosen(self, request)

    def handle(self, request: Request) -> Reply:
        """The regular answer."""
        for method, path, handler in _ROUTES:
            if method == request.method and (found := re.fullmatch(path, request.path)):
                return handler(self, request, *found.groups())
        return _error(404, None, f"no route {request.path}", {})

    def finish(self, batch_id: str | None = None) -> None:
        """Ends one batch, or all that are held."""
        with self._lock:
            for name, batch in self.batches.items():
                if batch["status"] == "in_progress" and batch_id in (None, name):
                    life = self.lives[name]
                    life.held = life.adrift = False
                    self._running[name] = None
            self.live()

    def add_file(self, body: bytes, name: str = "file", prefix: str = "file") -> str:
        self._number += 1
        file_id = f"{prefix}-{self._number}"
        self.files[file_id], self.names[file_id], self._made[file_id] = body, name, self.now()
        return file_id

    def add_batch(self, input_file_id: str, **values: Any) -> dict[str, Any]:
        """A batch as POST /batches makes it, in progress until `finish`. `values` are laid over it."""
        self._number += 1
        batch = {
            "id": f"batch-{self._number}", "object": "batch", "endpoint": EMBEDDINGS, "status": "in_progress",
            "input_file_id": input_file_id, "completion_window": "24h", "created_at": self.now(), "errors": None,
            "output_file_id": None, "error_file_id": None, "metadata": None, "request_counts": None, "usage": None,
            **values,
        }  # fmt: skip
        self.batches[batch["id"]] = batch
        self._unlisted[batch["id"]] = self.late_lists
        self.lives[batch["id"]] = Life(Fate(), self.time(), _hours(batch["completion_window"]) * 3600, adrift=True)
        self.books.batches += 1
        return batch

    def now(self) -> int:
        return int(self.time()) + self.clock_s

    def texts_sent(self) -> list[str]:
        """Every text of every batch that ran, in order."""
        ran = [line for life in self.lives.values() if life.ended is not None for line in life.lines or ()]
        return [text for line in ran for text in texts_of_line(line)]

    def enqueued_tokens(self) -> int:
        """Prompt tokens that count against the limit now."""
        now = self.time()
        return sum(
            life.tokens for life in self.lives.values() if life.ended is None or now < life.ended + self.release_s
        )

    def live(self) -> None:
        """Takes every batch to where it stands at this time."""
        now = self.time()
        for name in list(self._running):
            batch, life = self.batches[name], self.lives[name]
            status = life.status(now)
            if batch["input_file_id"] not in self.files:
                status, life.fate.ending = "failed", "invalid_request"
            if status in ENDED_STATUSES:
                del self._running[name]
                self._end(batch, life, status, now)
            else:
                self._progress(batch, life, status, now)

    def _progress(self, batch: dict[str, Any], life: Life, status: str, now: float) -> None:
        batch["status"] = status
        if status != "validating" and not life.held:
            done = int(life.share(now) * len(life.lines or ()))
            batch["in_progress_at"] = int(life.runs_from) + self.clock_s
            batch["request_counts"] = {"total": len(life.lines or ()), "completed": done, "failed": 0}

    def _end(self, batch: dict[str, Any], life: Life, status: str, now: float) -> None:
        life.ended = now
        batch |= {"status": status, f"{status}_at": int(now) + self.clock_s}
        if status == "failed":
            life.lines, life.tokens = None, 0
            code = life.fate.ending
            problem = {"code": code, "message": f"{code} it is", "param": None, "line": None}
            batch["errors"] = {"object": "list", "data": [problem]}
            return
        share = life.fate.share if life.fate.share is not None and status != "completed" else life.share(now)
        ended = self._ended(batch, life, status, share)
        for change in life.fate.results:
            change(ended)
        ended.write()
        for change in life.fate.files:
            change(ended)
        ended.bill()
        self._put_files(batch, ended, now + life.fate.files_late_s)

    def _ended(self, batch: dict[str, Any], life: Life, status: str, share: float) -> Ended:
        lines = life.lines or []
        ran = len(lines) if share >= 1 else int(share * len(lines))
        results = [self._result(batch, line) for line in lines[:ran]]
        if not life.fate.silent:
            results += [_never_ran(line, f"batch_{status}") for line in lines[ran:]]
        good = sum(not one.failed and one.line is not None for one in results)
        usage = sum(one.tokens for one in results)
        batch["request_counts"] = {"total": len(lines), "completed": good, "failed": len(results) - good}
        batch["usage"] = {"input_tokens": usage, "output_tokens": 0, "total_tokens": usage}
        return Ended(batch, results, self.books)

    def _put_files(self, batch: dict[str, Any], ended: Ended, visible: float) -> None:
        for kind, data in (("output", ended.output), ("error", ended.errors)):
            if data is not None and batch[f"{kind}_file_id"] is None:
                file_id = self.add_file(data, f"{self.label(batch)}-{kind}", kind)
                batch[f"{kind}_file_id"], self._late[file_id] = file_id, visible

    def _result(self, batch: dict[str, Any], line: Line) -> Result:
        texts = texts_of_line(line)
        body = {**(batch.get("request_params") or {}), **line["body"]}
        if self.absent.intersection(texts):
            return Result(texts, None)
        status, reply = self.respond(batch["endpoint"], body)
        response = {"status_code": status, "request_id": "r", "body": reply}
        wire = {
            "id": f"batch_req_{line['custom_id']}",
            "custom_id": line["custom_id"],
            "response": response,
            "error": None,
        }
        tokens = reply["usage"]["prompt_tokens"] if status == 200 and "usage" in reply else 0
        return Result(texts, wire, tokens, failed=status != 200)

    def respond(self, endpoint: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """What the model says to one request: an HTTP status and a body."""
        texts = texts_of_line({"body": body})
        if self.refuses.intersection(texts):
            return 400, {"error": {"message": "this text is refused", "code": "invalid_input", "type": "bad"}}
        if endpoint in self.models:
            return self.models[endpoint](body)
        tokens = sum(map(self.tokens_of, texts))
        data = [
            {"object": "embedding", "index": n, "embedding": encoded(vector(text), body.get("encoding_format"))}
            for n, text in enumerate(texts)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return 200, {"object": "list", "data": data, "model": body.get("model"), "usage": usage}

    def label(self, batch: dict[str, Any]) -> str:
        """A name of a batch that does not depend on when it was made."""
        named = batch.get("metadata") or {}
        return f"{named['embedfill_shard']}-{named['embedfill_try']}" if "embedfill_shard" in named else batch["id"]

    # The routes.

    def _upload(self, request: Request) -> Reply:
        head = b"Content-Type: " + request.headers["content-type"].encode() + b"\r\n\r\n"
        parts = BytesParser().parsebytes(head + request.body).get_payload()
        part = next(part for part in parts if part.get_filename())
        return _json(self._file(self.add_file(part.get_payload(decode=True), part.get_filename() or "")))

    def _file(self, file_id: str) -> dict[str, Any]:
        purpose = "batch" if file_id.startswith("file") else "batch_output"
        return {
            "id": file_id, "object": "file", "bytes": len(self.files[file_id]), "created_at": self._made[file_id],
            "filename": self.names[file_id], "purpose": purpose, "status": "processed",
        }  # fmt: skip

    def _is_there(self, file_id: str) -> bool:
        return file_id in self.files and self.time() >= self._late.get(file_id, 0.0)

    def _get_file(self, _request: Request, file_id: str) -> Reply:
        return _json(self._file(file_id)) if self._is_there(file_id) else _error(404, None, f"no file {file_id}", {})

    def _list_files(self, request: Request) -> Reply:
        purpose = request.query.get("purpose")
        shown = [self._file(file_id) for file_id in reversed(self.files) if self._is_there(file_id)]
        return _page([one for one in shown if purpose in (None, one["purpose"])], request, "10000")

    def _delete_file(self, _request: Request, file_id: str) -> Reply:
        found = self.files.pop(file_id, None) is not None
        return _json({"id": file_id, "deleted": True}) if found else _error(404, None, "no such file", {})

    def _content(self, request: Request, file_id: str) -> Reply:
        if not self._is_there(file_id):
            return _error(404, None, f"no file {file_id}", {})
        body = self.files[file_id]
        etag = f'"{hashlib.blake2b(body, digest_size=8).hexdigest()}"'
        headers = {"ETag": etag, "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        start = re.fullmatch(r"bytes=(\d+)-", request.headers.get("range", ""))
        if not start or request.headers.get("if-range", etag) != etag:
            return Reply(200, body, headers)
        at = int(start[1])
        if at >= len(body):
            return Reply(416, b"", {"Content-Range": f"bytes */{len(body)}"})
        return Reply(206, body[at:], {**headers, "Content-Range": f"bytes {at}-{len(body) - 1}/{len(body)}"})

    def _create(self, request: Request) -> Reply:
        body = orjson.loads(request.body)
        given = {
            key: body[key] for key in ("metadata", "endpoint", "completion_window", "request_params") if key in body
        }
        batch = self.add_batch(body["input_file_id"], **given)
        batch["expires_at"] = batch["created_at"] + int(_hours(batch["completion_window"]) * 3600)
        life = self.lives[batch["id"]]
        life.adrift, life.held = False, self.hold
        data = self.files.get(batch["input_file_id"])
        life.lines, problem = read_lines(data or b"")
        life.fate = Fate(problem) if problem else self._fate(batch, life)
        self._running[batch["id"]] = None
        self.live()
        return _json(batch)

    def _fate(self, batch: dict[str, Any], life: Life) -> Fate:
        tokens = sum(self.tokens_of(text) for line in life.lines or () for text in texts_of_line(line))
        if self.max_enqueued_tokens is not None and self.enqueued_tokens() + tokens > self.max_enqueued_tokens:
            return Fate("token_limit_exceeded")
        life.tokens = tokens
        chosen = self.fates.pop(0) if self.fates else self.fate_of(batch, life.lines or [])
        return chosen or Fate(self.endings.pop(0) if self.endings else "completed")

    def _list(self, request: Request) -> Reply:
        now = self.time()
        shown = [
            self._shown(batch)
            for name, batch in reversed(self.batches.items())
            if not self._unlisted[name] and self.lives[name].is_listed(now)
        ]
        for batch_id, left in self._unlisted.items():
            self._unlisted[batch_id] = max(0, left - 1)
        return _page(shown, request, "20")

    def _batch(self, _request: Request, batch_id: str) -> Reply:
        found = self.batches.get(batch_id)
        if not found or not self.lives[batch_id].is_known(self.time()):
            return _error(404, None, f"No batch found with id '{batch_id}'.", {})
        return _json(self._shown(found))

    def _shown(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch as it is told: the ids of its files may be late."""
        life = self.lives[batch["id"]]
        late = life.ended is not None and self.time() < life.ended + life.fate.ids_late_s
        return {**batch, "output_file_id": None, "error_file_id": None} if late else batch

    def _cancel(self, _request: Request, batch_id: str) -> Reply:
        batch = self.batches.get(batch_id)
        if batch is None:
            return _error(404, None, "no batch", {})
        if batch["status"] in ("completed", "failed", "expired"):
            return _error(409, None, f"Cannot cancel a batch with status '{batch['status']}'.", {})
        life = self.lives[batch_id]
        if life.adrift:  # made by hand: it has no requests
            batch["status"] = "cancelled"
        elif life.cancelled is None:
            batch["cancelling_at"], life.cancelled = self.now(), self.time()
            self.live()
        return _json(batch)

    def _embeddings(self, request: Request) -> Reply:
        status, body = self.respond(EMBEDDINGS, orjson.loads(request.body))
        if status == 200:
            body["data"].reverse()
            tokens = body["usage"]["prompt_tokens"]
            Ended(
                {"usage": {"input_tokens": tokens}},
                [Result(texts_of_line({"body": orjson.loads(request.body)}), None, tokens)],
                self.books,
            ).bill()
        return _json(body, status)


_ROUTES: list[tuple[str, str, Callable[..., Reply]]] = [
    ("POST", "/files", Provider._upload),
    ("GET", "/files", Provider._list_files),
    ("GET", "/files/([^/]+)", Provider._get_file),
    ("DELETE", "/files/([^/]+)", Provider._delete_file),
    ("GET", "/files/([^/]+)/content", Provider._content),
    ("POST", "/batches", Provider._create),
    ("GET", "/batches", Provider._list),
    ("GET", "/batches/([^/]+)", Provider._batch),
    ("POST", "/batches/([^/]+)/cancel", Provider._cancel),
    ("POST", "/embeddings", Provider._embeddings),
]


def _json(value: object, status: int = 200) -> Reply:
    return Reply(status, orjson.dumps(value), {"Content-Type": "application/json"})


def _error(status: int, code: str | None, message: str, headers: dict[str, str]) -> Reply:
    reply = _json({"error": {"message": message, "type": None, "param": None, "code": code}}, status)
    reply.headers |= headers
    return reply


def _page(shown: list[dict[str, Any]], request: Request, most: str) -> Reply:
    """One page of a listing, newest first."""
    names = [one["id"] for one in shown]
    start = names.index(request.query["after"]) + 1 if request.query.get("after") in names else 0
    page = shown[start : start + int(request.query.get("limit", most))]
    more = start + len(page) < len(shown)
    return _json({"object": "list", "data": page, "has_more": more, "last_id": page[-1]["id"] if page else None})


def _hours(window: str) -> float:
    return float(window.removesuffix("h"))


def _never_ran(line: Line, code: str) -> Result:
    error = {"code": code, "message": "it never ran"}
    wire = {"id": "r", "custom_id": line["custom_id"], "response": None, "error": error}
    return Result(texts_of_line(line), wire, failed=True)


class InProcess(httpx.BaseTransport):
    """Brings requests to a provider without a socket: for very many of them. What ends a connection raises what httpx
    raises of a real one."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        path, headers = request.url.path.removeprefix("/v1"), dict(request.headers)
        asked = Request(request.method, path, dict(request.url.params), headers, request.read())
        reply = self.provider.answer(asked)
        if reply is None:
            raise httpx.RemoteProtocolError("Server disconnected without sending a response.", request=request)
        if reply.reset:
            raise httpx.ReadError("Connection reset by peer", request=request)
        sent = {"Content-Length": str(len(reply.body)), **reply.headers}
        return httpx.Response(reply.status, headers=sent, stream=_Sent(reply, int(sent["Content-Length"])))


class _Sent(httpx.SyncByteStream):
    def __init__(self, reply: Reply, length: int) -> None:
        self.data, self.length = reply.body[: reply.sent], length

    def __iter__(self) -> Iterator[bytes]:
        yield self.data[: self.length]
        if len(self.data) < self.length:
            raise httpx.RemoteProtocolError("peer closed connection without sending complete message body")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer's body waits 40 ms for its headers to be acknowledged
    server: "_Server"

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        parts = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        query = dict(parse_qsl(parts.query))
        reply = self.server.provider.answer(Request(self.command, parts.path.removeprefix("/v1"), query, headers, body))
        if reply is None or reply.reset:
            if reply is not None:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            return
        self._send(reply)

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.body[: reply.sent])
        if reply.sent is not None or "Content-Length" in reply.headers:
            self.close_connection = True

    do_GET = do_POST = do_DELETE = _any  # noqa: N815 - the library's names

    def log_message(self, *_arguments: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, provider: Provider) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.provider = provider
        self.faults: list[BaseException | None] = []

    def shutdown_request(self, request: Any) -> None:
        # Plain close: the library's shutdown() would hide that a connection was reset.
        self.close_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(fault := sys.exception(), ConnectionError):  # a client may go away
            self.faults.append(fault)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries without waiting between them."""
    monkeypatch.setattr(retry, "backoff_s", lambda _attempt: 0.001)


@pytest.fixture
def provider(impatient: None) -> Iterator[Provider]:
    served = Provider()
    server = _Server(served)
    served.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield served
    server.shutdown()
    thread.join()
    server.server_close()
    assert not server.faults


@pytest.fixture
def client(provider: Provider) -> Iterator[BatchClient]:
    with BatchClient(provider.url) as made:
        yield made
