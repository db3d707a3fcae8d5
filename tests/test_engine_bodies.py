"""JSON bodies in memory: each bounded before it comes, all together bounded while they do; and those that break off."""

import asyncio
import re
import socket
from contextlib import closing
from urllib.parse import urlsplit

import httpx
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from embedfill.engine.http.bodies import Bodies, read_json
from embedfill.engine.http.wire import on_error
from embedfill.errors import RefusedError
from tests.engine_fixtures import EngineProcess, until

LARGE, SMALL = b"x" * 150_000, b"x" * 60_000
HEAD = b"POST /v1/batches HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"


def test_large_requests_share_what_there_is() -> None:
    """Two are held until `answer`; a third finds no room until they are done. A small one always does."""

    async def statuses() -> list[int]:
        reading, answer = asyncio.Semaphore(0), asyncio.Event()

        async def route(request: Request) -> Response:
            body = await read_json(request)
            reading.release()
            if len(body) > len(SMALL):
                await answer.wait()
            return Response(body)

        app = Starlette(
            routes=[Route("/", route, methods=["POST"])],
            middleware=[Middleware(Bodies, most=200_000)],
            exception_handlers={RefusedError: on_error},
        )
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
            held = [asyncio.create_task(http.post("/", content=LARGE)) for _ in range(2)]
            for _ in held:
                await reading.acquire()
            refused = await http.post("/", content=LARGE)
            assert refused.headers["retry-after"] == "2" and refused.json()["error"]["type"] == "server_error"
            found = [refused, await http.post("/", content=SMALL)]
            answer.set()
            found += await asyncio.gather(*held)
            found.append(await http.post("/", content=LARGE))
        return [one.status_code for one in found]

    assert asyncio.run(asyncio.wait_for(statuses(), 20)) == [503, 200, 200, 200, 200]


def test_what_is_announced_as_too_large_is_not_waited_for(engine: EngineProcess) -> None:
    with closing(_connected(engine)) as connection:
        connection.sendall(HEAD % 1_000_001)
        assert connection.recv(1000).startswith(b"HTTP/1.1 413")


def test_a_client_that_leaves_its_body_unsent_is_no_failure_of_ours(engine: EngineProcess) -> None:
    before = _counted(engine, 499), _counted(engine, 500)
    with closing(_connected(engine)) as connection:
        connection.sendall(HEAD % 1_000 + b"{")
    until(lambda: _counted(engine, 499) + _counted(engine, 500), lambda count: count > sum(before))
    assert (_counted(engine, 499), _counted(engine, 500)) == (before[0] + 1, before[1])


def _connected(engine: EngineProcess) -> socket.socket:
    place = urlsplit(engine.url)
    return socket.create_connection((place.hostname, place.port), timeout=20)


def _counted(engine: EngineProcess, status: int) -> float:
    """Requests to make a batch that were answered so."""
    labels = f'method="POST",route="/batches",status="{status}"'
    found = re.search(rf"http_request_seconds_count{{{labels}}} (\S+)", engine.get("/../metrics").text)
    return float(found[1]) if found else 0.0
