"""The connections to one upstream, each a client of its own that one request has at a time. Knows no API.

One client for all would look through its connections, and ask the system about each, whenever a request comes or goes:
with 16 of them that took more time than all the rest, and with a thousand nothing else would be done.
"""

from collections.abc import Callable
from contextlib import ExitStack
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx

_CONNECT_S = 10.0


class Exchange:
    """A request whose answer's head has come. To be closed, whatever becomes of it."""

    def __init__(self, response: httpx.Response, closed: Callable[[], None]) -> None:
        self.response = response
        self._closed = closed

    async def close(self) -> None:
        closed, self._closed = self._closed, _nothing
        try:
            await self.response.aclose()
        finally:
            closed()


class Connections:
    """Made when they are needed, kept for the next. Belongs to one event loop."""

    def __init__(self, base_url: str, headers: dict[str, str], timeout_s: float, proxies: bool) -> None:
        """`proxies`: whether those that the environment names are used."""
        self._base_url = base_url.rstrip("/")
        self._headers = headers
        self._timeout = httpx.Timeout(timeout_s, connect=min(_CONNECT_S, timeout_s))
        self._proxies = proxies
        # Made once: certificates are read, which takes longer than a request.
        self._tls = httpx.create_ssl_context(verify=base_url.startswith("https:"), trust_env=proxies)
        self._idle: list[httpx.AsyncClient] = []

    async def post(self, path: str, body: bytes, headers: dict[str, str]) -> Exchange:
        """Raises httpx.HTTPError."""
        client = self._idle.pop() if self._idle else self._client()
        with ExitStack() as failing:
            failing.callback(self._idle.append, client)  # it drops a broken connection itself
            request = client.build_request("POST", self._base_url + path, content=body, headers=headers)
            response = await client.send(request, stream=True)
            return Exchange(response, failing.pop_all().close)

    async def close(self) -> None:
        """Once no exchange is open."""
        while self._idle:
            await self._idle.pop().aclose()

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            headers=self._headers,
            timeout=self._timeout,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),  # none is kept: they would be another client's
            verify=self._tls,
            trust_env=self._proxies,
        )


def _nothing() -> None:
    pass
