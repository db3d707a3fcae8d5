"""Gives every request an id, and tells of its answer: one line of the log, one number of the metrics. Changes no answer
but for the header `x-request-id`; knows no route. Answers itself what the engine's end breaks off."""

import asyncio
import time
from collections.abc import Iterable

from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from embedfill.engine.http.wire import refuse
from embedfill.engine.telemetry import logs
from embedfill.engine.telemetry.metrics import Metrics
from embedfill.errors import RefusedError

_PATH_CHARS = 200
_PROBES = ("/healthz", "/readyz", "/metrics")  # asked every few seconds
_NO_ANSWER = 499  # the client went away first; as proxies count it
_BACK_S = 5.0  # a restart takes about as long


class Observed:
    """ASGI: wraps the whole application, so that the answers to its own failures are seen as well."""

    def __init__(self, app: ASGIApp, metrics: Metrics, routes: Iterable[BaseRoute]) -> None:
        self._app = app
        self._metrics = metrics
        found = [route for route in routes if isinstance(route, Route)]
        self._templates = {id(route.endpoint): route.path for route in found}  # not every endpoint can be a key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = logs.new_request_id()
        gone = scope.get("state", {}).pop("gone", None)  # it holds what holds the scope
        answer = _Answer(send, request_id)
        logs.REQUEST_ID.set(request_id)
        began = time.perf_counter()
        try:
            await self._app(scope, receive, answer.send)
        except asyncio.CancelledError:  # the server's, of what takes longer than the grace; nobody waits for this task
            if not answer.begun:
                await refuse(_stopping())(scope, receive, answer.send)
        finally:
            broken = answer.begun and (not answer.whole or (gone is not None and gone()))
            self._tell(scope, answer, time.perf_counter() - began, broken)

    def _tell(self, scope: Scope, answer: "_Answer", seconds: float, broken: bool) -> None:
        route = self._templates.get(id(scope.get("endpoint")), "")
        self._metrics.request(scope["method"], route, answer.status, seconds, answer.sent)
        tell = logs.debug if route in _PROBES and answer.status < 400 else logs.info
        tell(
            "request",
            method=scope["method"],
            path=scope["path"][:_PATH_CHARS],
            status=answer.status,
            ms=round(seconds * 1000, 1),
            bytes=answer.sent,
            broken_off=broken or None,
            owner=scope.get("state", {}).get("owner") or None,
            client=(scope.get("client") or ("",))[0] or None,
        )


class _Answer:
    """Passes an answer on, and notes its status and size."""

    def __init__(self, send: Send, request_id: str) -> None:
        self.status = _NO_ANSWER
        self.begun = self.whole = False
        self.sent = 0
        self._send = send
        self._header = (b"x-request-id", request_id.encode())

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun, self.status = True, message["status"]
            others = [pair for pair in message["headers"] if pair[0].lower() != self._header[0]]
            message = {**message, "headers": [*others, self._header]}
        elif message["type"] == "http.response.body":
            self.sent += len(message.get("body", b""))
            self.whole = not message.get("more_body", False)
        await self._send(message)


def _stopping() -> RefusedError:
    message = "The engine stops, and could not wait for this request to be done: send it again once it is back."
    return RefusedError(503, "engine_stopping", message, retry_after_s=_BACK_S)
