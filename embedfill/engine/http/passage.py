"""Synchronous requests on their way through the engine to an upstream and back. Requests of batches go another way.

Of a client's headers and an upstream's only those of the lists below go through: no key, no cookie, nothing of the
connection.
"""

import asyncio
import contextlib
import hashlib
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import httpx
import orjson
from anyio import CancelScope, to_thread
from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from embedfill.engine.http.wire import answer, refuse
from embedfill.engine.refusal import envelope
from embedfill.engine.relay import answers
from embedfill.engine.relay.connections import Exchange
from embedfill.engine.relay.limiter import Ticket
from embedfill.engine.relay.upstream import Reply, Route, Upstream
from embedfill.engine.telemetry import logs
from embedfill.errors import RefusedError

T = TypeVar("T")
_IDEMPOTENCY = "idempotency-key"
_ASKED = ("accept", _IDEMPOTENCY, "openai-beta", "traceparent", "tracestate", "x-client-request-id")
_ANSWERED = ("cache-control", "content-type", "retry-after", "retry-after-ms", "x-should-retry")
_ANSWERED_TOO = ("x-ratelimit-", "openai-processing-", "openai-version")  # and what else begins so
_MUCH_BYTES = 65_536
_TURN_S = 60.0  # how long a request waits for its turn


class Turnstile:
    """The web server's side of a route: its client, and the line of requests that wait for their turn."""

    def __init__(self, route: Route) -> None:
        self.route = route
        self._client: Upstream | None = None
        self._line = asyncio.Lock()
        self._changed = asyncio.Event()

    @property
    def client(self) -> Upstream:
        """Made by the event loop that uses it."""
        if self._client is None:
            self._client = self.route.client()
            self.route.limiter.on_change(partial(self._call, asyncio.get_running_loop()))
        return self._client

    async def enter(self, tokens: int) -> Ticket:
        """Waits for a turn, before most requests of batches. Raises RefusedError (429) where that would take too long."""
        try:
            async with asyncio.timeout(_TURN_S):
                with self.route.limiter.urgently():
                    async with self._line:
                        return await self._first(tokens)
        except TimeoutError:
            raise self._busy(1.0) from None

    async def _first(self, tokens: int) -> Ticket:
        while True:
            self._changed.clear()
            ticket = self.route.limiter.enter(tokens, urgent=True)
            if isinstance(ticket, Ticket):
                return ticket
            if _TURN_S < ticket < math.inf:
                raise self._busy(ticket)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if ticket == math.inf else ticket):
                    await self._changed.wait()

    def _busy(self, wait_s: float) -> RefusedError:
        message = f"Route '{self.route.pattern}' has no room for this request now; try again in {wait_s:.0f} seconds."
        return RefusedError(429, "rate_limit_exceeded", message, retry_after_s=wait_s)

    def _call(self, loop: asyncio.AbstractEventLoop) -> None:
        with contextlib.suppress(RuntimeError):  # a loop that is closed has nobody waiting
            loop.call_soon_threadsafe(self._changed.set)


class Turn:
    """A request's place under way, which is given back once."""

    def __init__(self, route: Route, ticket: Ticket) -> None:
        self._route = route
        self._ticket: Ticket | None = ticket

    def end(self, reply: Reply | None = None) -> None:
        """With what the reply teaches, where there is one."""
        ticket, self._ticket = self._ticket, None
        if ticket is None:
            return
        if reply is None:
            self._route.limiter.leave(ticket, "dropped")
        else:
            self._route.limiter.leave(ticket, reply.outcome, answers.cost(reply), reply.retry_after_s)


class Passage:
    """The way of one request. `model` is the name that the client has for it; `owner` is who asks."""

    def __init__(self, turnstile: Turnstile, endpoint: str, model: str, headers: Mapping[str, str], owner: str) -> None:
        self._turnstile = turnstile
        self._route = turnstile.route
        self._endpoint = endpoint
        self._model = model
        self._headers = _asked(headers, owner)

    async def go(self, body: bytes, values: dict[str, Any]) -> Response:
        """`values` is `body`, parsed. Streamed where that is asked for."""
        sent = body
        if self._route.settings.model:
            sent = await aside(len(body), partial(orjson.dumps, self._route.renamed(values)))
        client = self._turnstile.client
        try:
            turn = Turn(self._route, await self._turnstile.enter(answers.estimate(values, len(body))))
        except RefusedError as error:
            response = refuse(error)
            response.headers["retry-after"] = f"{math.ceil(error.retry_after_s or 1)}"
            return response
        with contextlib.ExitStack() as leaving:
            leaving.callback(turn.end)
            if values.get("stream") is True:
                response = await self._stream(client, sent, turn)
                if isinstance(response, Relay):
                    leaving.pop_all()  # it ends the turn when it is through
                return response
            reply = await client.ask(self._endpoint, sent, self._headers)
            turn.end(reply)
        return await self._answer(reply)

    async def _stream(self, client: Upstream, body: bytes, turn: Turn) -> Response:
        """The upstream's stream as it comes; its refusal as a whole."""
        began = time.perf_counter()
        try:
            exchange = await client.open(self._endpoint, body, self._headers)
            if exchange.response.status_code == 200:
                client.tell(_begun(exchange.response), began)  # how long it goes on is the model's affair
                return Relay(exchange, turn)
            reply = await client.read(exchange)
        except httpx.HTTPError as error:
            reply = client.silence(error)
        client.tell(reply, began)
        turn.end(reply)
        return await self._answer(reply)

    async def _answer(self, reply: Reply) -> Response:
        if reply.status == 401:
            return self._unauthorized()
        content = reply.content
        if reply.status == 200 and self._route.settings.model:
            restored = self._route.restored(reply.body, self._model)
            content = await aside(len(content), partial(orjson.dumps, restored))
        response = answer(content, reply.status)
        response.headers.update({**_given(reply.headers), "content-type": "application/json"})
        if reply.misled:
            place = {"route": self._route.pattern, "upstream": self._route.settings.base_url}
            logs.warning("upstream_redirects", **place, hint=reply.remedy)
            response.headers["x-should-retry"] = "false"
        return response

    def _unauthorized(self) -> Response:
        """The client's own key was right: a 401 would send it looking there."""
        route = self._route
        logs.warning("upstream_refuses_key", route=route.pattern, upstream=route.settings.base_url)
        message = f"The server behind route '{route.pattern}' does not accept the key that the engine has for it."
        response = refuse(RefusedError(502, "upstream_unauthorized", message))
        response.headers["x-should-retry"] = "false"
        return response


class Relay(Response):
    """An upstream's stream, part by part as it comes, byte for byte. Broken off where the client goes away."""

    def __init__(self, exchange: Exchange, turn: Turn) -> None:
        self._exchange = exchange
        self._response = exchange.response
        self._turn = turn
        self._whole = self._broken = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def relay(message: Message) -> None:
            """The server closes the connection of an answer that has no end, and so tells that it broke off."""
            if not self._broken or message.get("more_body"):
                await send(message)

        try:
            await StreamingResponse(self._parts(), 200, _given(self._response.headers))(scope, receive, relay)
        finally:
            self._turn.end(_begun(self._response) if self._whole else None)
            with CancelScope(shield=True):
                await self._exchange.close()

    async def _parts(self) -> AsyncIterator[bytes]:
        try:
            async for part in self._response.aiter_raw():
                yield part
            self._whole = True
        except httpx.HTTPError as error:
            if self._response.headers.get("content-type", "").startswith("text/event-stream"):
                # The official clients raise what an event says of an error.
                refusal = RefusedError(502, "upstream_unreachable", f"The stream broke off ({type(error).__name__}).")
                yield b"data: " + orjson.dumps(envelope(refusal)) + b"\n\n"
            else:
                self._broken = True


async def aside(size: int, work: Callable[[], T]) -> T:
    """The result of `work` on `size` bytes: of much in a thread, off the event loop."""
    return await to_thread.run_sync(work) if size > _MUCH_BYTES else work()


def _begun(response: httpx.Response) -> Reply:
    """A stream as a reply, for who counts: its parts are nobody's here."""
    return Reply(response.status_code, {}, b"", response.headers)


def _given(headers: httpx.Headers) -> dict[str, str]:
    """Headers of an answer that are the client's to know."""
    named = {name: value for name, value in headers.items() if name.startswith(_ANSWERED_TOO)}
    if "x-request-id" in headers:
        named["x-upstream-request-id"] = headers["x-request-id"]  # the engine has an id of its own for every answer
    return {**_kept(headers, _ANSWERED), **named}


def _asked(headers: Mapping[str, str], owner: str) -> dict[str, str]:
    """Headers of a request that are the upstream's to know. To it all owners are one: each has idempotency keys of its
    own, or one could be given another's answer."""
    kept = _kept(headers, _ASKED)
    if _IDEMPOTENCY in kept:
        kept[_IDEMPOTENCY] = hashlib.sha256(f"{owner}\n{kept[_IDEMPOTENCY]}".encode()).hexdigest()
    return kept


def _kept(headers: Mapping[str, str], names: tuple[str, ...]) -> dict[str, str]:
    return {name: headers[name] for name in names if name in headers}
