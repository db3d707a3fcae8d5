"""The routes /embeddings and /models. Parses, embeds and writes JSON in threads, never on the event loop."""

import time

from anyio import CapacityLimiter, to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from embedfill.engine import embeddings
from embedfill.engine.pool import Pool
from embedfill.engine.refusal import refused
from embedfill.engine.wire import answer, parse_json, read_json
from embedfill.errors import RefusedError

_THREADS = 4


class ModelRoutes:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._started = int(time.time())
        # Threads of their own: requests that wait for the model must not keep file and batch requests waiting.
        self._limiter = CapacityLimiter(_THREADS)

    def routes(self) -> list[Route]:
        return [
            Route("/embeddings", self.embed, methods=["POST"]),
            Route("/models", self.list, methods=["GET"]),
            Route("/models/{id:path}", self.get, methods=["GET"]),
        ]

    async def embed(self, request: Request) -> Response:
        body = await read_json(request)
        # Abandoned when the engine stops: a large request may take minutes.
        return answer(await to_thread.run_sync(self._embed, body, limiter=self._limiter, abandon_on_cancel=True))

    def _embed(self, body: bytes) -> bytes:
        values = parse_json(body)
        name = values.get("model")
        if not isinstance(name, str) or not name:
            raise refused("Missing required parameter: 'model'.", "model", "missing_required_parameter")
        runner = self._pool.runner(name)
        request = embeddings.parse(values, runner.model)
        (reply,) = runner.answer([request], urgent=True)
        if isinstance(reply, RefusedError):
            raise reply
        return embeddings.dumps(embeddings.render(request, reply))

    async def list(self, _request: Request) -> Response:
        return answer({"object": "list", "data": [self._model(name) for name in self._pool.names]})

    async def get(self, request: Request) -> Response:
        name = request.path_params["id"]
        if name not in self._pool.names:
            raise RefusedError(404, "model_not_found", f"The model '{name}' does not exist here.", param="model")
        return answer(self._model(name))

    def _model(self, name: str) -> dict[str, object]:
        return {"id": name, "object": "model", "created": self._started, "owned_by": "embedfill"}
