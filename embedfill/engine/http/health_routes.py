"""The routes that need no key: whether the engine lives (/healthz), and whether work should be sent to it (/readyz)."""

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from embedfill import __version__
from embedfill.engine.health import Health
from embedfill.engine.http.wire import answer


class HealthRoutes:
    def __init__(self, health: Health) -> None:
        self._health = health

    def routes(self) -> list[Route]:
        return [Route("/healthz", self.alive, methods=["GET"]), Route("/readyz", self.ready, methods=["GET"])]

    async def alive(self, _request: Request) -> Response:
        return answer({"status": "ok", "version": __version__})

    async def ready(self, _request: Request) -> Response:
        reasons = await run_in_threadpool(self._health.reasons)
        if reasons:
            return answer({"status": "not ready", "reasons": reasons}, 503)
        return answer({"status": "ready", "reasons": []})
