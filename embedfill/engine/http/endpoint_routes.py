"""The five endpoints of requests, synchronously: passed on to the route of their model, else answered by a model here."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as HttpRoute

from embedfill.batchapi.models import ENDPOINTS
from embedfill.engine.http.auth import owner
from embedfill.engine.http.bodies import read_json
from embedfill.engine.http.passage import Passage, Turnstile, aside
from embedfill.engine.http.wire import Nothing, parse_json
from embedfill.engine.refusal import refused
from embedfill.engine.relay.upstream import Route
from embedfill.engine.work.served import Served
from embedfill.errors import RefusedError

_UNNAMED = {"/v1/moderations": "omni-moderation-latest"}  # the models of requests that need not name one


class EndpointRoutes:
    """`local` answers for the models of this process. Raises RefusedError (404) for others."""

    def __init__(
        self, served: Served, routes: Mapping[str, Route], local: Callable[[dict[str, Any]], Awaitable[Response]]
    ) -> None:
        self._served = served
        self._local = local
        self._turnstiles = {pattern: Turnstile(route) for pattern, route in routes.items()}

    def routes(self) -> list[HttpRoute]:
        return [HttpRoute(path.removeprefix("/v1"), partial(self._post, path), methods=["POST"]) for path in ENDPOINTS]

    async def _post(self, endpoint: str, request: Request) -> Response:
        body = await read_json(request)
        values = await aside(len(body), partial(parse_json, body))
        model = _model(values, endpoint)
        pattern = self._served.route(model, endpoint)
        if pattern is not None:
            passage = Passage(self._turnstiles[pattern], endpoint, model, request.headers, owner(request))
            return await _unless_gone(request, passage.go(body, values))
        if self._served.local(model, endpoint):
            return await self._local(values)
        message = f"The model '{model}' is not served at {endpoint} here; there are: {self._served.at(endpoint)}."
        raise RefusedError(404, "model_not_found", message, param="model")


def _model(values: dict[str, Any], endpoint: str) -> str:
    name = values.get("model")
    if name is None or name == "":
        name = _UNNAMED.get(endpoint)
    if name is None:
        raise refused("Missing required parameter: 'model'.", "model", "missing_required_parameter")
    if not isinstance(name, str):
        raise refused("Invalid type for 'model': expected a string.", "model", "invalid_type")
    return name


async def _unless_gone(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
    """The result of `work`, which is cancelled when the client goes away."""
    working = asyncio.create_task(work)
    watching = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        return await working if working.done() else Nothing()
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _gone(request: Request) -> None:
    """Returns when the client has gone. The body was read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
