"""The HTTP application: all routes under /v1 and at the root, the key, and one shape for every error."""

from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route

from embedfill import __version__
from embedfill.engine.auth import BearerAuth
from embedfill.engine.batch_routes import BatchRoutes
from embedfill.engine.file_routes import FileRoutes
from embedfill.engine.model_routes import ModelRoutes
from embedfill.engine.service import Engine
from embedfill.engine.wire import answer, on_error
from embedfill.errors import EmbedfillError


def create_app(engine: Engine, key: SecretStr | None = None) -> Starlette:
    """The application of an engine that is started and stopped by the caller."""
    api = [
        *FileRoutes(engine.files).routes(),
        *BatchRoutes(engine.batches, engine.wake).routes(),
        *ModelRoutes(engine.pool).routes(),
    ]
    routes: list[BaseRoute] = [Route("/healthz", _health, methods=["GET"]), Mount("/v1", routes=api), *api]
    return Starlette(
        routes=routes,
        middleware=[Middleware(BearerAuth, key=key)],
        exception_handlers={HTTPException: on_error, EmbedfillError: on_error, Exception: on_error},
    )


async def _health(_request: Request) -> Response:
    return answer({"status": "ok", "version": __version__})
