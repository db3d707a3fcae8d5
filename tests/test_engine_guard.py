"""Connections that are held for nothing, and requests that are none: bytes on real sockets."""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from urllib.parse import urlsplit

import pytest
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from embedfill.engine.http.guard import GuardedProtocol, Patience
from embedfill.engine.http.observe import Observed
from embedfill.engine.telemetry.metrics import Metrics
from tests.engine_fixtures import EngineProcess, until

HASTE = Patience(head_s=0.2, body_s=0.2, body_bytes=100, answer_s=0.4, rest_s=0.3, look_s=0.05)
END = b"\r\n\r\n"
MEGABYTE = bytes(1_000_000)


def connected(url: str) -> socket.socket:
    place = urlsplit(url)
    assert place.hostname and place.port
    return socket.create_connection((place.hostname, place.port), timeout=20)


def answers(connection: socket.socket) -> bytes:
    """All that comes until the server closes."""
    found = b""
    while data := connection.recv(65536):
        found += data
    return found


def asked(url: str, *parts: bytes) -> tuple[int, str]:
    """Status and code of the answer to these bytes, and that the connection is closed after it."""
    with closing(connected(url)) as connection:
        for part in parts:
            connection.sendall(part)
        head, _, body = answers(connection).partition(END)
    return int(head.split()[1]), json.loads(body)["error"]["code"]


@pytest.fixture(scope="module")
def url(engine: EngineProcess) -> str:
    return engine.url


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"GET /v1/files HTTP/1.1\r\n" + b"".join(b"x-%d: y\r\n" % n for n in range(101)) + END, 431, "header_too_large"),
        (b"GET /v1/files HTTP/1.1\r\nx: " + b"y" * 70_000 + END, 431, "header_too_large"),
        (b"GET /v1/files HTTP/1.1\r\nx: " + b"y" * 400_000, 431, "header_too_large"),  # and no end
        (b"GET /v1/files?after=" + b"y" * 17_000 + b" HTTP/1.1" + END, 414, "url_too_long"),
        (b"\r\n" * 200_000, 431, "header_too_large"),
        (b"hello?" + END, 400, "invalid_http"),
        (b"GET /v1/files HTTP/1.1\r\nno colon" + END, 400, "invalid_http"),
        (b"GET http:// HTTP/1.1" + END, 400, "invalid_http"),
        (b"POST /v1/batches HTTP/1.1\r\nContent-Length: 2\r\nTransfer-Encoding: chunked" + END, 400, "invalid_http"),
        (b"POST /v1/batches HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 3" + END + b"{}", 400, "invalid_http"),
        (b"POST /v1/batches HTTP/1.1\r\nContent-Length: -1" + END, 400, "invalid_http"),
        (b"POST /v1/batches HTTP/1.1\r\nTransfer-Encoding: chunked, gzip" + END, 400, "invalid_http"),
        (b"POST /v1/batches HTTP/1.1\r\nTransfer-Encoding: chunked" + END + b"2\r\n{}\r\nzz\r\n", 400, "invalid_http"),
        (
            b"POST /v1/batches HTTP/1.1\r\nTransfer-Encoding: chunked" + END + b"1;" + b"x" * 400_000,
            431,
            "header_too_large",
        ),
        (
            b"POST /v1/batches HTTP/1.1\r\nTransfer-Encoding: chunked" + END + b"0\r\n" + b"a: b\r\n" * 200,
            431,
            "header_too_large",
        ),
    ],
)  # fmt: skip
def test_what_is_no_request_is_answered_and_closed(url: str, sent: bytes, status: int, code: str) -> None:
    assert asked(url, sent) == (status, code)


def test_a_body_in_chunks_is_a_body(url: str) -> None:
    head = b"POST /v1/batches HTTP/1.1\r\nConnection: close\r\nTransfer-Encoding: chunked" + END
    assert asked(url, head, b"1\r\n{\r\n", b"1\r\n}\r\n0\r\nAuthorization: late\r\n\r\n") == (
        400,
        "missing_required_parameter",
    )


def test_what_is_announced_as_too_large_is_refused_at_once(url: str) -> None:
    head = b"POST /v1/files HTTP/1.1\r\nConnection: close\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: "
    assert asked(url, head + b"600000000" + END) == (400, "file_too_large")


def test_an_upgrade_is_not_made_and_the_request_is_answered(url: str) -> None:
    for upgrade in (b"h2c", b"websocket"):
        head = b"POST /v1/batches HTTP/1.1\r\nUpgrade: %s\r\nConnection: upgrade\r\nContent-Length: 2" % upgrade
        with closing(connected(url)) as connection:
            for parts in ((head + END + b"{}",), (head + END, b"{", b"}")):
                for part in parts:
                    connection.sendall(part)
                found = b""
                while not found.endswith(b"}}"):
                    found += connection.recv(1000)
                assert b"missing_required_parameter" in found
    assert asked(url, b"CONNECT example.com:443 HTTP/1.1" + END) == (405, "method_not_allowed")
    assert asked(url, b"PRI * HTTP/2.0\r\n\r\nSM" + END) == (400, "invalid_http")


def test_a_client_that_waits_for_leave_gets_it(url: str) -> None:
    with closing(connected(url)) as connection:
        connection.sendall(b"POST /v1/batches HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2" + END)
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue" + END
        connection.sendall(b"{}")
        assert connection.recv(1000).startswith(b"HTTP/1.1 400")


def test_more_body_than_announced_is_no_second_request(url: str) -> None:
    with closing(connected(url)) as connection:
        connection.sendall(b"POST /v1/batches HTTP/1.1\r\nContent-Length: 2" + END + b"{}{}garbage" + END)
        found = answers(connection)
    assert b"invalid_http" in found and found.count(b"HTTP/1.1 ") <= 2


def test_requests_one_after_the_other_without_waiting(url: str) -> None:
    one = b"GET /healthz HTTP/1.1\r\nHost: x" + END
    with closing(connected(url)) as connection:
        connection.sendall(one * 50 + b"GET /healthz HTTP/1.1\r\nConnection: close" + END)
        assert answers(connection).count(b"HTTP/1.1 200") == 51


def test_more_requests_than_may_wait_are_refused_in_their_turn(url: str) -> None:
    with closing(connected(url)) as connection:
        connection.sendall((b"GET /healthz HTTP/1.1\r\nHost: x" + END) * 150)
        found = answers(connection)
    assert found.count(b"HTTP/1.1 200") >= 100
    assert found.count(b"HTTP/1.1 429") == 1 and b"too_many_requests" in found.rpartition(END)[2]


UPLOAD = (
    b"POST /v1/files HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 10000000" + END
    + b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    + b'--b\r\nContent-Disposition: form-data; name="file"; filename="x.jsonl"\r\n\r\n' + b"{}\n" * 1_000_000
)  # fmt: skip


@pytest.mark.parametrize("how", [socket.SHUT_WR, socket.SHUT_RDWR, None])
def test_a_client_that_goes_away_leaves_no_part(engine: EngineProcess, how: int | None) -> None:
    parts = engine.data / "parts"
    with closing(connected(engine.url)) as connection:
        connection.sendall(UPLOAD)
        until(lambda: os.listdir(parts), bool)
        if how is None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            connection.close()  # a reset
        else:
            connection.shutdown(how)
        until(lambda: os.listdir(parts), lambda left: not left)


# What takes time runs beside the engine, in haste.


class Hasty(GuardedProtocol):
    patience = HASTE


class Full(GuardedProtocol):
    most = 2


async def _app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers /now before it reads; /large and /more with much, part by part; else with the size of what it has read, or notes that it is gone."""
    size = 0
    if scope["path"] == "/slow":
        await _rest(1.0)
    while scope["path"] not in ("/now", "/large", "/more"):
        message = await receive()
        if message["type"] == "http.disconnect":
            GONE.set()
            return
        size += len(message["body"])
        if not message["more_body"]:
            break
    parts = {"/large": [MEGABYTE] * 50, "/more": [MEGABYTE] * 8}.get(scope["path"], [str(size).encode()])
    headers = [(b"content-length", str(sum(map(len, parts))).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for place, part in enumerate(parts, 1):
        await send({"type": "http.response.body", "body": part, "more_body": place < len(parts)})
    if scope["path"] == "/large":
        GONE.set()


async def _rest(seconds: float) -> None:
    import asyncio

    await asyncio.sleep(seconds)


GONE = threading.Event()


@pytest.fixture
def serve() -> Iterator[Callable[[type[GuardedProtocol], ASGIApp], str]]:
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(protocol: type[GuardedProtocol], app: ASGIApp) -> str:
        GONE.clear()
        config = uvicorn.Config(app, port=0, http=protocol, ws="none", lifespan="off", log_level="critical")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        running.append((server, thread))
        until(lambda: server.started, bool)
        return f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


Serve = Callable[[type[GuardedProtocol], ASGIApp], str]


def test_a_head_that_does_not_end(serve: Serve) -> None:
    url = serve(Hasty, _app)
    assert asked(url, b"GET / HTTP/1.1\r\nx: y\r\n") == (408, "request_timeout")
    with closing(connected(url)) as connection:
        assert answers(connection) == b""  # it asked for nothing
    with closing(connected(url)) as connection:
        connection.sendall(b"GET / HTTP/1.1" + END)
        assert b"200 OK" in connection.recv(1000)
        connection.sendall(b"\r\n")  # between two requests
        assert b"408" in answers(connection)


def test_a_body_that_does_not_come(serve: Serve) -> None:
    url = serve(Hasty, _app)
    head = b"POST / HTTP/1.1\r\nContent-Length: 1000" + END
    assert asked(url, head + b"x" * 500) == (408, "request_timeout")
    assert GONE.wait(20)


def test_a_body_that_trickles(serve: Serve) -> None:
    url = serve(Hasty, _app)
    with closing(connected(url)) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nContent-Length: 1000" + END)
        connection.settimeout(0.05)
        found, began = b"", time.monotonic()
        while not found and time.monotonic() - began < 20:
            connection.sendall(b"x")
            try:
                found = connection.recv(1000)
            except TimeoutError:
                continue
    assert b"408" in found


def test_a_server_that_takes_its_time_blames_nobody(serve: Serve) -> None:
    url = serve(Hasty, _app)
    with closing(connected(url)) as connection:
        connection.sendall(
            b"POST /slow HTTP/1.1\r\nConnection: close\r\nContent-Length: 1000000" + END + b"x" * 1_000_000
        )
        assert answers(connection).endswith(END + b"1000000")


def test_the_rest_of_a_body_that_was_answered(serve: Serve) -> None:
    url = serve(Hasty, _app)
    with closing(connected(url)) as connection:
        connection.sendall(b"POST /now HTTP/1.1\r\nContent-Length: 1000" + END + b"x" * 500)
        found = answers(connection)
    assert b"200 OK" in found and b"408" not in found


def test_an_answer_that_nobody_takes(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "embedfill.engine")
    url = serve(Hasty, Observed(_app, Metrics(), []))
    with closing(connected(url)) as connection:
        connection.sendall(b"GET /large HTTP/1.1" + END)
        assert GONE.wait(20)  # the application got rid of it
        time.sleep(HASTE.answer_s * 2)
        with suppress(ConnectionError):
            assert len(answers(connection)) < 50_000_000
    broken, request = [record for record in caplog.records if record.name == "embedfill.engine"]
    assert (broken.msg, broken.__dict__["fields"]["path"]) == ("answer broken off", "/large")
    assert (request.msg, request.__dict__["fields"]["broken_off"]) == ("request", True)


def test_an_answer_that_is_taken_slowly(serve: Serve) -> None:
    """What the system has buffered hides for a while that the client takes it."""
    place = urlsplit(serve(Hasty, _app))
    with closing(socket.socket()) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        connection.settimeout(20)
        connection.connect((place.hostname, place.port))
        connection.sendall(b"GET /more HTTP/1.1\r\nConnection: close" + END)
        size, due = 0, time.monotonic() + 4 * HASTE.answer_s
        while time.monotonic() < due:
            size += len(connection.recv(16_384))
            time.sleep(0.02)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_000_000)
        size += len(answers(connection))
    assert size > 8_000_000


def test_a_full_house_says_so(serve: Serve) -> None:
    url = serve(Full, _app)
    with closing(connected(url)) as first, closing(connected(url)) as second:
        for connection in (first, second):
            connection.sendall(b"GET / HTTP/1.1" + END)
            assert b"200 OK" in connection.recv(1000)
        assert asked(url, b"GET / HTTP/1.1" + END) == (503, "too_many_connections")
        with closing(connected(url)) as probe:  # the engine is full, not dead
            probe.sendall(b"GET /healthz HTTP/1.1" + END)
            assert b"200 OK" in answers(probe)
    until(lambda: _status(url), lambda status: status == 200)


def _status(url: str) -> int:
    with closing(connected(url)) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nConnection: close" + END)
        return int(answers(connection).split()[1])
