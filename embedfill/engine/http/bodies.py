"""JSON bodies, read into memory: each is bounded, and so are all together. Parses none; files go to disk (see `form`)."""

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from embedfill.batchapi.limits import BODY_BYTES
from embedfill.errors import RefusedError

_ALL_BYTES = 256 << 20
_FREE_BYTES = 65_536  # of each: a small request gets in whatever large ones do
_RETRY_S = 2.0


class Bodies:
    """ASGI middleware: what a request has read counts until it is answered."""

    def __init__(self, app: ASGIApp, most: int = _ALL_BYTES) -> None:
        self._app = app
        self.left = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        share = Share(self)
        scope.setdefault("state", {})["share"] = share
        try:
            await self._app(scope, receive, send)
        finally:
            self.left += share.held


class Share:
    """What one request holds of the memory for all."""

    def __init__(self, bodies: Bodies) -> None:
        self.held = 0
        self._bodies = bodies

    def hold(self, size: int) -> None:
        """`size` bytes in all. Raises RefusedError (503) where there is no room for them."""
        more = max(0, size - _FREE_BYTES) - self.held
        if more > self._bodies.left:
            message = "The engine holds as many large requests as it can; try again in a moment."
            raise RefusedError(503, "too_many_requests", message, retry_after_s=_RETRY_S)
        self._bodies.left -= more
        self.held += more


async def read_json(request: Request, most: int = BODY_BYTES) -> bytes:
    """The body, not parsed yet: large ones are parsed off the event loop. Raises RefusedError (413, 503), or
    ClientDisconnect."""
    announced = request.headers.get("content-length", "")
    if announced.isascii() and announced.isdigit():
        _check(int(announced[:20]), most)
    parts, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        _check(size, most)
        request.state.share.hold(size)
        parts.append(chunk)
    return b"".join(parts)


def _check(size: int, most: int) -> None:
    if size > most:
        raise RefusedError(413, "request_too_large", f"The request body is larger than {most} bytes.")
