"""Lets in who has a key, and notes whose it is. Without keys, every program that reaches the port (the server binds
loopback), but no web page."""

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from embedfill.engine.http.origin import foreign
from embedfill.engine.http.wire import refuse
from embedfill.engine.owners import ANYBODY, Owners
from embedfill.errors import RefusedError

_OPEN = ("/healthz", "/readyz")


class BearerAuth:
    """ASGI middleware: 401 unless `Authorization: Bearer KEY` comes with every request; without keys, 403 for a browser's
    that another site's page had sent."""

    def __init__(self, app: ASGIApp, owners: Owners) -> None:
        self._app = app
        self._owners = owners

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _OPEN:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        owner = self._owners.find(headers.get("authorization", ""))
        stranger = foreign(headers) if owner == ANYBODY else None
        if owner is None:
            message = "Incorrect API key provided: send the engine's key as 'Authorization: Bearer KEY'."
            response = refuse(RefusedError(401, "invalid_api_key", message))
            response.headers["WWW-Authenticate"] = "Bearer"
            await response(scope, receive, send)
        elif stranger is not None:
            await refuse(stranger)(scope, receive, send)
        else:
            scope.setdefault("state", {})["owner"] = owner
            await self._app(scope, receive, send)


def owner(request: Request) -> str:
    """Who asks."""
    return str(request.state.owner)
