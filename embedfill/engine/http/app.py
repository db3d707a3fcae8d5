"""The HTTP application: all routes under /v1 and at the root, the key, and one shape for every error."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route, Router
from starlette.types import ASGIApp

from embedfill.engine.http.auth import BearerAuth
from embedfill.engine.http.batch_routes import BatchRoutes
from embedfill.engine.http.bodies import Bodies
from embedfill.engine.http.endpoint_routes import EndpointRoutes
from embedfill.engine.http.file_routes import FileRoutes
from embedfill.engine.http.health_routes import HealthRoutes
from embedfill.engine.http.model_routes import ModelRoutes
from embedfill.engine.http.observe import Observed
from embedfill.engine.http.upload_routes import UploadRoutes
from embedfill.engine.http.wire import on_error, refuse
from embedfill.engine.room import FAILURES, refusal
from embedfill.engine.service import Engine
from embedfill.errors import EmbedfillError


def create_app(engine: Engine) -> ASGIApp:
    """The application of an engine that is started and stopped by the caller."""
    models = ModelRoutes(engine.pool, engine.served)
    api = one_per_path(
        [
            *FileRoutes(engine.files).routes(),
            *UploadRoutes(engine.uploads).routes(),
            *BatchRoutes(engine.batches, engine.windows, engine.wake).routes(),
            *EndpointRoutes(engine.served, engine.routes, models.embed).routes(),
            *models.routes(),
        ]
    )
    operation = [*HealthRoutes(engine.health).routes(), *engine.metrics.routes()]
    routes: list[BaseRoute] = [*operation, Mount("/v1", Router(api, redirect_slashes=False)), *api]

    async def on_failure(_request: Request, error: Exception) -> Response:
        refused = refusal(error, engine.data)
        if refused is None:
            raise error  # a mistake of ours: to the log, and on to `on_error`
        response = refuse(refused)
        response.headers["x-should-retry"] = "false"  # the official clients would, for every 5xx
        return response

    app = Starlette(
        routes=routes,
        middleware=[Middleware(BearerAuth, owners=engine.owners), Middleware(Bodies)],
        exception_handlers={
            HTTPException: on_error,
            ClientDisconnect: on_error,
            EmbedfillError: on_error,
            Exception: on_error,
            **dict.fromkeys(FAILURES, on_failure),
        },
    )
    app.router.redirect_slashes = False  # nobody is sent to where the client's Host header says
    return Observed(app, engine.metrics, [*operation, *api])


def one_per_path(routes: Sequence[Route]) -> list[Route]:
    """The same, with one route for each path: of several, Starlette's 405 would tell the methods of the first only."""
    found: dict[str, dict[str, Callable[..., Any]]] = {}
    for route in routes:
        found.setdefault(route.path, {}).update(dict.fromkeys(route.methods or (), route.endpoint))
    return [Route(path, _by_method(endpoints), methods=list(endpoints)) for path, endpoints in found.items()]


def _by_method(endpoints: Mapping[str, Callable[..., Any]]) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Any:  # noqa: ANN401 - a response, or anything that sends one
        return await endpoints[request.method](request)

    return endpoint
