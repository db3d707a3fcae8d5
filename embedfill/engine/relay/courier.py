"""A thread with an event loop of its own, which carries requests of batches to upstreams. Decides nothing about them."""

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

from embedfill.engine.relay.upstream import Reply, Route, Upstream

T = TypeVar("T")
_CLOSE_S = 2.0


class Courier:
    """Any number of requests at once. Started by the first."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="courier", daemon=True)
        self._clients: dict[str, Upstream] = {}

    def send(self, route: Route, endpoint: str, body: bytes) -> Future[Reply]:
        """The reply, once there is one. Cancelling the future breaks the request off."""
        if not self._thread.is_alive():
            self._thread.start()
        return self._run(self._ask(route, endpoint, body))

    def close(self) -> None:
        """Breaks off what is under way."""
        if self._thread.is_alive():
            with suppress(TimeoutError):  # the thread is a daemon, and what hangs in it nobody waits for
                self._run(self._end()).result(_CLOSE_S)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_CLOSE_S)
        if not self._loop.is_running():
            self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _ask(self, route: Route, endpoint: str, body: bytes) -> Reply:
        if route.pattern not in self._clients:
            self._clients[route.pattern] = route.client()
        return await self._clients[route.pattern].ask(endpoint, body)

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for client in self._clients.values():
            await client.close()
        await self._loop.shutdown_default_executor()
