"""A provider on 127.0.0.1 that keeps to the Files + Batches API until a test scripts it to misbehave.

Its "model" gives four numbers that follow from the text. A batch has ended as soon as it is made, unless `hold` is set.
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

import numpy as np
import orjson
import pybase64
import pytest

from embedfill.providers import retry
from embedfill.providers.client import BatchClient

DIMENSIONS = 4


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


def vector(text: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """What the provider embeds a text to: float32, shape (4,)."""
    digest = hashlib.blake2b(text.encode(), digest_size=2 * DIMENSIONS).digest()
    return (np.frombuffer(digest, "<u2").astype(np.float32) + 1) / 65536


class Provider:
    """State and scripts. `files` and `batches` are what it holds, `requests` all that it was asked."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[Request] = []
        self.files: dict[str, bytes] = {}
        self.names: dict[str, str] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.hold = False  # batches stay in progress until `finish`
        self.endings: list[str] = []  # of the next batches: a status, or a validation error's code
        self.refuses: set[str] = set()  # texts that fail the request they are in
        self.absent: set[str] = set()  # texts whose request never comes back
        self.late_lists = 0  # listings that a new batch is missing from
        self.clock_s = 0  # how far its clock is ahead
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
            for number, (method, path, script) in enumerate(self._scripts):
                if method == request.method and re.fullmatch(path, request.path):
                    del self._scripts[number]
                    return script(self, request)
            return self.handle(request)

    def handle(self, request: Request) -> Reply:
        """The regular answer."""
        for method, path, handler in _ROUTES:
            if method == request.method and (found := re.fullmatch(path, request.path)):
                return handler(self, request, *found.groups())
        return _error(404, None, f"no route {request.path}", {})

    def finish(self, batch_id: str | None = None) -> None:
        """Ends one batch, or all that are held."""
        with self._lock:
            for batch in self.batches.values():
                if batch["status"] == "in_progress" and batch_id in (None, batch["id"]):
                    self._run(batch)

    def add_file(self, body: bytes, name: str = "file", prefix: str = "file") -> str:
        self._number += 1
        file_id = f"{prefix}-{self._number}"
        self.files[file_id], self.names[file_id] = body, name
        return file_id

    def add_batch(self, input_file_id: str, **values: Any) -> dict[str, Any]:
        """A batch as POST /batches makes it. `values` are laid over it."""
        self._number += 1
        batch = {
            "id": f"batch-{self._number}", "object": "batch", "endpoint": "/v1/embeddings", "status": "in_progress",
            "input_file_id": input_file_id, "completion_window": "24h", "created_at": self.now(), "errors": None,
            "output_file_id": None, "error_file_id": None, "metadata": None, "request_counts": None, **values,
        }  # fmt: skip
        self.batches[batch["id"]] = batch
        self._unlisted[batch["id"]] = self.late_lists
        return batch

    def now(self) -> int:
        return int(time.time()) + self.clock_s

    def texts_sent(self) -> list[str]:
        """Every text of every batch that ran, in order."""
        ran = [line for batch in self.batches.values() for line in batch.get("ran", [])]
        return [text for line in ran for text in line["body"]["input"]]

    def _run(self, batch: dict[str, Any]) -> None:
        data = self.files.get(batch["input_file_id"])
        ending = self.endings.pop(0) if self.endings else "completed"
        if data is None:
            ending = "invalid_request"
        if ending not in ("completed", "expired", "cancelled"):
            problem = {"code": ending, "message": f"{ending} it is", "param": None, "line": None}
            batch |= {"status": "failed", "errors": {"object": "list", "data": [problem]}}
            return
        assert data is not None
        lines = [orjson.loads(line) for line in data.split(b"\n") if line]
        batch["ran"] = lines
        good = [one for one in map(self._result, lines) if one and one["response"]["status_code"] == 200]
        bad = [one for one in map(self._result, lines) if one and one["response"]["status_code"] != 200]
        batch |= {
            "status": ending,
            "output_file_id": self.add_file(_jsonl(good), prefix="output") if good else None,
            "error_file_id": self.add_file(_jsonl(bad), prefix="error") if bad else None,
            "request_counts": {"total": len(lines), "completed": len(good), "failed": len(bad)},
        }

    def _result(self, line: dict[str, Any]) -> dict[str, Any] | None:
        texts = line["body"]["input"]
        if self.absent.intersection(texts):
            return None
        if self.refuses.intersection(texts):
            body: Any = {"error": {"message": "this text is refused", "code": "invalid_input", "type": "bad"}}
            return {"custom_id": line["custom_id"], "response": {"status_code": 400, "body": body}, "error": None}
        data = [{"index": n, "embedding": _base64(vector(text))} for n, text in enumerate(texts)]
        body = {"data": data, "usage": {"prompt_tokens": len(texts), "total_tokens": len(texts)}}
        return {"custom_id": line["custom_id"], "response": {"status_code": 200, "body": body}, "error": None}

    # The routes.

    def _upload(self, request: Request) -> Reply:
        head = b"Content-Type: " + request.headers["content-type"].encode() + b"\r\n\r\n"
        parts = BytesParser().parsebytes(head + request.body).get_payload()
        part = next(part for part in parts if part.get_filename())
        return _json(self._file(self.add_file(part.get_payload(decode=True), part.get_filename() or "")))

    def _file(self, file_id: str) -> dict[str, Any]:
        return {
            "id": file_id, "object": "file", "bytes": len(self.files[file_id]), "created_at": self.now(),
            "filename": self.names[file_id], "purpose": "batch", "status": "processed",
        }  # fmt: skip

    def _get_file(self, _request: Request, file_id: str) -> Reply:
        return _json(self._file(file_id)) if file_id in self.files else _error(404, None, f"no file {file_id}", {})

    def _delete_file(self, _request: Request, file_id: str) -> Reply:
        found = self.files.pop(file_id, None) is not None
        return _json({"id": file_id, "deleted": True}) if found else _error(404, None, "no such file", {})

    def _content(self, request: Request, file_id: str) -> Reply:
        if file_id not in self.files:
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
        batch = self.add_batch(body["input_file_id"], metadata=body.get("metadata"))
        if not self.hold:
            self._run(batch)
        return _json(batch)

    def _list(self, request: Request) -> Reply:
        shown = [batch for batch in reversed(self.batches.values()) if not self._unlisted[batch["id"]]]
        for batch_id, left in self._unlisted.items():
            self._unlisted[batch_id] = max(0, left - 1)
        names = [batch["id"] for batch in shown]
        start = names.index(request.query["after"]) + 1 if request.query.get("after") in names else 0
        page = shown[start : start + int(request.query.get("limit", "20"))]
        more = start + len(page) < len(shown)
        return _json({"object": "list", "data": page, "has_more": more, "last_id": page[-1]["id"] if page else None})

    def _batch(self, _request: Request, batch_id: str) -> Reply:
        found = self.batches.get(batch_id)
        return _json(found) if found else _error(404, None, f"No batch found with id '{batch_id}'.", {})

    def _cancel(self, _request: Request, batch_id: str) -> Reply:
        batch = self.batches.get(batch_id)
        if batch is None:
            return _error(404, None, "no batch", {})
        if batch["status"] in ("completed", "failed"):
            return _error(409, None, f"Cannot cancel a batch with status '{batch['status']}'.", {})
        batch["status"] = "cancelled"
        return _json(batch)

    def _embeddings(self, request: Request) -> Reply:
        body = orjson.loads(request.body)
        data = [{"index": n, "embedding": _base64(vector(text))} for n, text in enumerate(body["input"])]
        return _json({"object": "list", "data": data[::-1], "model": body["model"]})


_ROUTES: list[tuple[str, str, Callable[..., Reply]]] = [
    ("POST", "/files", Provider._upload),
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


def _jsonl(lines: list[dict[str, Any]]) -> bytes:
    return b"".join(orjson.dumps(line) + b"\n" for line in lines)


def _base64(values: "np.ndarray[Any, np.dtype[np.float32]]") -> str:
    return pybase64.b64encode(values.tobytes()).decode()


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
