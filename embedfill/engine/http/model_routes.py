"""The routes /models, and the local models' answers to /embeddings. Embeds in threads, never on the event loop."""

import time
from typing import Any

from anyio import CapacityLimiter, to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from embedfill.engine.http.wire import answer
from embedfill.engine.work import embeddings
from embedfill.engine.work.pool import Pool
from embedfill.engine.work.served import Served
from embedfill.errors import RefusedError

_THREADS = 4


class ModelRoutes:
    def __init__(self, pool: Pool, served: Served) -> None:
        self._pool = pool
        self._served = served
        self._started = int(time.time())
        # Threads of their own: requests that wait for the model must not keep file and batch requests waiting.
        self._limiter = CapacityLimiter(_THREADS)

    def routes(self) -> list[Route]:
        return [
            Route("/models", self.list, methods=["GET"]),
            Route("/models/{id:path}", self.get, methods=["GET"]),
        ]

    async def embed(self, values: dict[str, Any]) -> Response:
        """The answer of a local model. Raises RefusedError (400, 404)."""
        # Abandoned when the engine stops: a large request may take minutes.
        return answer(await to_thread.run_sync(self._embed, values, limiter=self._limiter, abandon_on_cancel=True))

    def _embed(self, values: dict[str, Any]) -> bytes:
        runner = self._pool.runner(values["model"])
        request = embeddings.parse(values, runner.model)
        (reply,) = runner.answer([request], urgent=True)
        if isinstance(reply, RefusedError):
            raise reply
        return embeddings.dumps(embeddings.render(request, reply))

    async def list(self, _request: Request) -> Response:
        return answer({"object": "list", "data": [self._model(name) for name in self._served.names]})

    async def get(self, request: Request) -> Response:
        name = request.path_params["id"]
        if not self._served.lists(name):
            raise RefusedError(404, "model_not_found", f"The model '{name}' does not exist here.", param="model")
        return answer(self._model(name))

    def _model(self, name: str) -> dict[str, object]:
        owner = "embedfill" if name in self._pool.names else "upstream"
        return {"id": name, "object": "model", "created": self._started, "owned_by": owner}
