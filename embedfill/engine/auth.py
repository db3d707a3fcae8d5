"""Lets in who has the key. Without a configured key, anybody who reaches the port (the server then binds loopback)."""

import hmac

from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from embedfill.engine.wire import refuse
from embedfill.errors import RefusedError

_OPEN = ("/healthz",)


class BearerAuth:
    """ASGI middleware: 401 unless `Authorization: Bearer KEY` comes with every request."""

    def __init__(self, app: ASGIApp, key: SecretStr | None) -> None:
        self._app = app
        self._key = key.get_secret_value().encode() if key else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._key is None or scope["path"] in _OPEN or self._allowed(scope, self._key):
            await self._app(scope, receive, send)
        else:
            message = "Incorrect API key provided: send the engine's key as 'Authorization: Bearer KEY'."
            response = refuse(RefusedError(401, "invalid_api_key", message))
            response.headers["WWW-Authenticate"] = "Bearer"
            await response(scope, receive, send)

    def _allowed(self, scope: Scope, key: bytes) -> bool:
        scheme, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), key)
