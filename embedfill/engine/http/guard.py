"""One HTTP connection that nobody can hold for nothing: bounds on its head and its number, and time limits.

uvicorn's protocol reads as long as bytes come. This one counts them, and looks at each connection from time to time: a
head that does not end, a body that trickles, an answer that nobody takes, are ended. Does not know what is asked for.
"""

import asyncio
import fcntl
import resource
import sys
import termios
from dataclasses import dataclass
from enum import Enum
from functools import partial
from http import HTTPStatus
from typing import Any, ClassVar

import httptools
import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from embedfill.engine.http.wire import refuse
from embedfill.engine.refusal import envelope
from embedfill.engine.telemetry import logs
from embedfill.errors import RefusedError

IDLE_S = 75  # longer than clients keep a connection that they do not use: they are to close it, not we
_CONNECTIONS = 1_000
_ALIVE = "/healthz"
_HEAD_BYTES = 65_536
_URL_BYTES = 16_384
_HEADERS = 100
_PIPELINED = 100
_LINGER_S = 2.0
_PATH_CHARS = 200


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a client may take: for its head, for `body_bytes` of its body, and for taking any of an answer. `rest_s`:
    for the rest of a body that was answered already."""

    head_s: float = 30.0
    body_s: float = 60.0
    body_bytes: int = 30_000
    answer_s: float = 300.0  # longer than a client takes for what its own system has buffered
    rest_s: float = 30.0
    look_s: float = 5.0


class Waiting(Enum):
    """What a connection waits for."""

    HEAD = "head"
    BODY = "body"
    NOTHING = "nothing"  # the request is complete; or there was none since the last


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with bounds. Answers what it refuses in the API's envelope, and closes the connection."""

    patience: ClassVar[Patience] = Patience()
    most: ClassVar[int] = _CONNECTIONS

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - uvicorn's own
        super().__init__(*arguments, **options)
        self.url = b""
        self._waiting = Waiting.HEAD
        self._since = self.loop.time()
        self._unread = 0  # bytes since the parser last made something of them
        self._headers = 0
        self._head_bytes = 0
        self._body_bytes = 0  # since `_since`
        self._stuck = (0, self._since)  # bytes that the client has not taken, and since when
        self._data = b""
        self._refusal: RefusedError | None = None
        self._refusal_due = False  # once what was asked before it is answered
        self._look: asyncio.TimerHandle | None = None

    # what uvicorn's loop calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.most:
            self.app = partial(_busy, self.app)
        self._look = self.loop.call_later(self.patience.look_s, self._watch)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._look is not None:
            self._look.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            return  # answered, and about to be closed
        if self._waiting is Waiting.NOTHING:
            self._wait(Waiting.HEAD)
        self._unread += len(data)
        self._data = data
        super().data_received(data)
        if self._unread > _HEAD_BYTES and self._refusal is None:
            self._refuse(RefusedError(431, "header_too_large", "The request's head is too large."))

    # what its parser calls

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._headers = self._head_bytes = self._unread = 0
        self._wait(Waiting.HEAD)

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._unread = 0
        if len(self.url) > _URL_BYTES:
            self._stop(RefusedError(414, "url_too_long", f"The URL is longer than {_URL_BYTES} bytes."))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._unread = 0
        self._headers += 1
        self._head_bytes += len(name) + len(value)
        if self._headers > _HEADERS or self._head_bytes > _HEAD_BYTES:
            message = f"The request has more than {_HEADERS} headers, or {_HEAD_BYTES} bytes of them."
            self._stop(RefusedError(431, "header_too_large", message))
        if self._waiting is Waiting.HEAD:  # what comes after a body is counted, and stays without effect
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._unread = 0
        if len(self.pipeline) >= _PIPELINED:
            self._refusal_due = True
            self._stop(
                RefusedError(429, "too_many_requests", f"More than {_PIPELINED} requests wait in this connection.")
            )
        if self.parser.get_method() == b"CONNECT":
            self._stop(RefusedError(405, "method_not_allowed", "The engine is no proxy."))
        self._wait(Waiting.BODY)
        super().on_headers_complete()
        self.scope["state"]["gone"] = partial(getattr, self.cycle, "disconnected")

    def on_body(self, body: bytes) -> None:
        self._unread = 0
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unread = 0
        super().on_message_complete()
        self._wait(Waiting.NOTHING)

    # a request to speak something else is answered as if it had not asked, which HTTP allows

    def _should_upgrade(self) -> bool:
        return True

    def handle_websocket_upgrade(self) -> None:
        """The parser gives up a body that comes with such a request: it gets the request again, without the wish."""
        error = sys.exception()
        rest = self._data[error.args[0] :] if error is not None else b""
        lines = [self.parser.get_method() + b" " + self.url + b" HTTP/1.1"]
        lines += [name + b": " + value for name, value in self.headers if name not in (b"upgrade", b"http2-settings")]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        super().data_received(b"\r\n".join(lines) + b"\r\n\r\n" + rest)

    # what is refused

    def on_response_complete(self) -> None:
        """What was refused only for coming too early is so in its turn."""
        last = not self.pipeline
        super().on_response_complete()
        if self._refusal_due and last and self._refusal and not self.transport.is_closing():
            self._refuse(self._refusal)

    def send_400_response(self, msg: str) -> None:
        """Called for whatever the parser, or one of the above, could not take."""
        if self._refusal_due:
            self._wait(Waiting.NOTHING)
            return
        self._refuse(self._refusal or RefusedError(400, "invalid_http", msg))

    def _stop(self, refusal: RefusedError) -> None:
        """Ends the parsing: the parser turns the error into a call of `send_400_response`."""
        self._refusal = refusal
        raise ValueError(refusal.message)

    def _refuse(self, refusal: RefusedError) -> None:
        """Answers and closes. What still comes is read for a moment: else the client would not get to the answer."""
        self._refusal = refusal
        if self.cycle is not None and not self.cycle.response_complete:
            self._gone()
            if self.cycle.response_started or self.pipeline:
                self.transport.close()
                return
        self.transport.write(_response(refusal))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(_LINGER_S, self.transport.close)

    def _gone(self) -> None:
        """To the application, the client has gone."""
        self.cycle.disconnected = True
        self.cycle.message_event.set()

    # who is too slow

    def _wait(self, waiting: Waiting) -> None:
        self._waiting = waiting
        self._since = self.loop.time()
        self._body_bytes = 0

    def _watch(self) -> None:
        """Looks whether the client does its part. Time in which we did not read, or did not answer, is not its own."""
        self._look = self.loop.call_later(self.patience.look_s, self._watch)
        if self._is_stuck():
            self._break_off()
        elif self._waiting is Waiting.HEAD and self._waited() > self.patience.head_s:
            self._time_out("head")
        elif self._waiting is Waiting.BODY:
            self._watch_body()

    def _watch_body(self) -> None:
        if self.cycle.response_complete:
            if self._waited() > self.patience.rest_s:
                self.transport.close()
        elif self.flow.read_paused or self.cycle.waiting_for_100_continue:
            self._wait(Waiting.BODY)
        elif self._waited() > self.patience.body_s:
            if self._body_bytes < self.patience.body_bytes:
                self._time_out("body")
            else:
                self._wait(Waiting.BODY)

    def _is_stuck(self) -> bool:
        """Whether nothing of what is to be sent was taken for too long."""
        ours = self.transport.get_write_buffer_size()
        size, since = ours + self._in_system(), self._stuck[1]
        if not ours or size != self._stuck[0]:
            self._stuck = (size, self.loop.time())
            return False
        return self.loop.time() - since > self.patience.answer_s

    def _in_system(self) -> int:
        """Bytes that the system keeps for the client, where it tells: ours stand still while megabytes of these go."""
        connection = self.transport.get_extra_info("socket")
        try:
            return int.from_bytes(fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
        except (OSError, ValueError):
            return 0

    def _break_off(self) -> None:
        path, client = self.scope.get("path", "")[:_PATH_CHARS], self.client
        logs.warning("answer broken off", path=path, client=client and client[0], untaken=self._stuck[0])
        self.transport.abort()

    def _time_out(self, what: str) -> None:
        if self._waiting is Waiting.HEAD and not self._unread and not self._head_bytes and not self.url:
            self.transport.close()  # nothing was asked for
        else:
            self._refuse(RefusedError(408, "request_timeout", f"The request's {what} came too slowly."))

    def _waited(self) -> float:
        return self.loop.time() - self._since


async def _busy(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """A full house must not be taken for dead: /healthz is answered all the same. Then the connection ends."""

    async def last(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (b"connection", b"close")]
        await send(message)

    if scope["path"] == _ALIVE:
        await app(scope, receive, last)
        return
    message = "The engine has as many connections as it can hold; try again in a moment."
    response = refuse(RefusedError(503, "too_many_connections", message))
    response.headers["retry-after"] = "1"
    await response(scope, receive, last)


def _response(refusal: RefusedError) -> bytes:
    body, request_id = orjson.dumps(envelope(refusal)), logs.new_request_id()
    logs.info("connection refused", status=refusal.status, code=refusal.code, request_id=request_id)
    head = (
        f"HTTP/1.1 {refusal.status} {HTTPStatus(refusal.status).phrase}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\nx-request-id: {request_id}\r\n\r\n"
    )
    return head.encode() + body


def raise_open_files() -> None:
    """As many open files as connections and batches may need, where the system lets us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * _CONNECTIONS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
