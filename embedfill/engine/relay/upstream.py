"""A server that answers for routed models: sends it requests, and says what its answers mean. Decides no turn, retries
nothing, and shows its key to nobody else."""

import asyncio
import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Any, Literal

import httpx
import orjson
from pydantic import SecretStr

from embedfill.config import secret
from embedfill.engine.refusal import envelope
from embedfill.engine.relay.connections import Connections, Exchange
from embedfill.engine.relay.limiter import Limiter, Outcome
from embedfill.engine.settings import RouteSettings
from embedfill.engine.telemetry.meter import UNMETERED, Meter
from embedfill.errors import ConfigError, RefusedError
from embedfill.masks import HIDDEN, public
from embedfill.providers.client import is_loopback
from embedfill.providers.retry import BILLING_CODES

MAX_ANSWER_BYTES = 192 << 20  # 2,048 vectors of 3,072 numbers as text, and a half
_MUCH_BYTES = 1 << 20  # parsed elsewhere than on an event loop
_SHOWN_CHARS = 500  # of an answer that is no JSON
_WORTH_ANOTHER_TRY = frozenset({408, 409, 425, 429})
_NEVER_SERVED = frozenset({501, 505})
_KEY_CHARS = 8  # shorter ones, of servers that want any, are words that answers are made of
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)

# What to do about a reply. hold: the same again, but only once somebody has seen to the route.
Fate = Literal["done", "again", "hold"]


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of one request: `body` is `content`, parsed. `came` is False where no answer did: all is ours then.
    `garbled`: it was a success of which nothing could be made, and may have cost money. `misled`: the server
    sends us elsewhere."""

    status: int
    body: dict[str, Any]
    content: bytes
    headers: httpx.Headers
    came: bool = True
    garbled: bool = False
    misled: bool = False

    @property
    def retry_after_s(self) -> float | None:
        """What the server asks to wait; None where it does not say."""
        return _wait_s(self.headers.get("retry-after-ms"), 1e-3) or _wait_s(self.headers.get("retry-after"), 1.0)

    @property
    def fate(self) -> Fate:
        if (
            self.misled
            or self.status in (401, 402)
            or (self.status in (403, 429) and _code(self.body) in BILLING_CODES)
        ):
            return "hold"  # of the engine's own key: no fault of the request's
        again = self.status in _WORTH_ANOTHER_TRY or (self.status >= 500 and self.status not in _NEVER_SERVED)
        return "again" if again else "done"

    @property
    def remedy(self) -> str | None:
        """For whoever runs the engine: what to do about a route that is held up."""
        if self.misled:
            there = public(self.headers.get("location", ""))[:_SHOWN_CHARS]
            return f"check the route's base_url, http or https too: it leads to {there or 'another place'}"
        return "check the route's key and its account" if self.fate == "hold" else None

    @property
    def outcome(self) -> Outcome:
        """What the limiter is to learn of it."""
        meanings: dict[Fate, Outcome] = {"done": "fine", "again": "trouble", "hold": "blocked"}
        return meanings[self.fate]


class Route:
    """The settings of one route, its key, and its limiter: what every client of it shares."""

    def __init__(
        self,
        pattern: str,
        settings: RouteSettings,
        meter: Meter = UNMETERED,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """Raises ConfigError where the variable of the key is not set, or holds what no header can carry."""
        self.pattern = pattern
        self.settings = settings
        self.meter = meter
        self.limiter = Limiter(settings.concurrency, settings.requests_per_minute, settings.tokens_per_minute)
        self._key = _key(pattern, settings, environ)

    def __repr__(self) -> str:
        return f"Route({self.pattern!r}, {public(self.settings.base_url)!r})"

    def client(self) -> "Upstream":
        """For one event loop."""
        return Upstream(self, self._key)

    def renamed(self, body: dict[str, Any]) -> dict[str, Any]:
        """A request as it is sent there: its model by the name that it has there."""
        return {**body, "model": self.settings.model} if self.settings.model else body

    def restored(self, body: dict[str, Any], model: str) -> dict[str, Any]:
        """An answer as it is given to who asked for `model`. Where nothing was renamed, the server's word stands."""
        known = self.settings.model and isinstance(body.get("model"), str)
        return {**body, "model": model} if known else body


class Upstream:
    """The HTTP client of one route. Belongs to one event loop."""

    def __init__(self, route: Route, key: SecretStr | None) -> None:
        self.route = route
        self._key = key
        settings = route.settings
        # Asked for as it is: what a compressed answer grows to cannot be told beforehand.
        headers = {"User-Agent": "embedfill", "Accept-Encoding": "identity", "Content-Type": "application/json"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key.get_secret_value()}"
        # A proxy of the environment's cannot reach this machine's own servers.
        proxies = not is_loopback(settings.base_url)
        self._connections = Connections(settings.base_url, headers, settings.timeout_s, proxies)

    def __repr__(self) -> str:
        return f"Upstream({self.route!r})"

    async def close(self) -> None:
        await self._connections.close()

    async def ask(self, endpoint: str, body: bytes, headers: Mapping[str, str] | None = None) -> Reply:
        """One request, its answer whole. Always a reply: where none came, one that says so."""
        began = time.perf_counter()
        try:
            async with asyncio.timeout(self.route.settings.timeout_s):
                reply = await self.read(await self.open(endpoint, body, headers))
        except (httpx.HTTPError, TimeoutError) as error:
            reply = self.silence(error)
        self.tell(reply, began)
        return reply

    def tell(self, reply: Reply, began: float) -> None:
        """Has a request counted that began then, by `time.perf_counter`."""
        outcome = str(reply.status) if reply.came else "timeout" if reply.status == 504 else "unreachable"
        self.route.meter.upstream(self.route.pattern, outcome, time.perf_counter() - began)

    async def open(self, endpoint: str, body: bytes, headers: Mapping[str, str] | None = None) -> Exchange:
        """One request, its answer not read yet. Raises httpx.HTTPError."""
        return await self._connections.post(endpoint.removeprefix("/v1"), body, dict(headers or {}))

    async def read(self, exchange: Exchange) -> Reply:
        """The answer, as far as it is bounded; closes it. Raises httpx.HTTPError where it breaks off."""
        response = exchange.response
        parts, size = [], 0
        try:
            async for part in response.aiter_bytes():
                size += len(part)
                if size > MAX_ANSWER_BYTES:
                    message = f"The answer of the server behind this model is larger than {MAX_ANSWER_BYTES} bytes."
                    return _refusal(501, "upstream_answer_too_large", message)
                parts.append(part)
        finally:
            await exchange.close()
        if size > _MUCH_BYTES:
            return await asyncio.to_thread(self._reply, response, b"".join(parts))
        return self._reply(response, b"".join(parts))

    def silence(self, error: Exception) -> Reply:
        """The reply where none came. Names the route, not its address: that is not for every client to know."""
        late = isinstance(error, TimeoutError | httpx.TimeoutException)
        status, code = (504, "upstream_timeout") if late else (502, "upstream_unreachable")
        within = f" within {self.route.settings.timeout_s:g} seconds" if late else ""
        message = f"The server behind route '{self.route.pattern}' did not answer{within} ({type(error).__name__})."
        return _refusal(status, code, message, came=False)

    def _reply(self, response: httpx.Response, content: bytes) -> Reply:
        """A success must be a JSON object. An error is given the envelope where it has none."""
        if 300 <= response.status_code < 400:
            return self._misled(response)
        content = self._hidden(content)
        value = parsed(content)
        if value is None or (response.status_code >= 300 and not isinstance(value.get("error"), dict)):
            status = 502 if response.status_code < 400 else response.status_code
            words = content[:_SHOWN_CHARS].decode(errors="replace")
            message = f"The server behind route '{self.route.pattern}' answered {response.status_code}: {words}"
            refusal = _refusal(status, "upstream_error", message, response.headers)
            return replace(refusal, garbled=response.status_code < 300)
        return Reply(response.status_code, value, content, response.headers)

    def _misled(self, response: httpx.Response) -> Reply:
        """Never followed: the key is for this server only. No try mends it, but whoever runs the engine can."""
        said = f"answered {response.status_code}, a redirect, which the engine does not follow: its log says more."
        message = f"The server behind route '{self.route.pattern}' {said}"
        return replace(_refusal(502, "upstream_redirects", message, response.headers), misled=True)

    def _hidden(self, content: bytes) -> bytes:
        """Without the key, which some servers repeat. Of JSON only strings are touched: it stays JSON."""
        key = self._key.get_secret_value() if self._key else ""
        written = json.dumps(key)[1:-1]
        forms = [
            form.encode()
            for form in dict.fromkeys((key, written, written.replace("/", "\\/")))
            if form.encode() in content
        ]
        if len(key) < _KEY_CHARS or not forms:
            return content
        if parsed(content) is None:
            return _without(content, forms)
        return _STRING.sub(lambda found: _without(found[0], forms), content)


def parsed(content: bytes) -> dict[str, Any] | None:
    """The JSON object of an answer; None for anything else."""
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError:
        value = _almost(content)
    return value if isinstance(value, dict) else None


def _without(content: bytes, forms: list[bytes]) -> bytes:
    for form in forms:
        content = content.replace(form, HIDDEN.encode())
    return content


def _almost(content: bytes) -> object:
    """What is JSON but for NaN and Infinity (null instead) and halves of surrogate pairs (U+FFFD); else None."""
    try:
        text = json.dumps(json.loads(content, parse_constant=lambda _: None), ensure_ascii=False)
        return orjson.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    except (ValueError, RecursionError):
        return None


def _wait_s(value: str | None, unit_s: float) -> float | None:
    """Of a number of units, or of a date."""
    try:
        seconds = float(value or "nan") * unit_s
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value or "").timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _refusal(status: int, code: str, message: str, headers: httpx.Headers | None = None, came: bool = True) -> Reply:
    body = envelope(RefusedError(status, code, message))
    return Reply(status, body, orjson.dumps(body), headers or httpx.Headers(), came)


def _code(body: dict[str, Any]) -> str:
    error = body.get("error")
    return str(error.get("code") or error.get("type") or "") if isinstance(error, dict) else ""


def _key(pattern: str, settings: RouteSettings, environ: Mapping[str, str] | None) -> SecretStr | None:
    if settings.api_key_env is None:
        return None
    where = f"engine.routes.{pattern}.api_key_env"
    value = secret(settings.api_key_env, environ)
    if value is None:
        raise ConfigError(where, settings.api_key_env, "the variable is not set")
    shown = value.get_secret_value()
    if not (shown.isascii() and shown.isprintable()):
        raise ConfigError(where, settings.api_key_env, "the variable holds what no header can carry")
    return value
