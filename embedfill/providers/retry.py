"""Trying again, for requests that may be sent twice without harm. POST /batches never comes here."""

import math
import random
import time
from collections.abc import Callable
from typing import TypeVar

import httpx

from embedfill.errors import BillingError, RefusedError, UnreachableError
from embedfill.masks import HIDDEN, public

Result = TypeVar("Result")
ATTEMPTS = 6
_CAP_S = 60.0
BILLING_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})


def retrying(
    call: Callable[[], Result],
    revive: Callable[[], None] | None = None,
    sleep: Callable[[float], None] = time.sleep,
    attempts: int = ATTEMPTS,
) -> Result:
    """Calls until an answer that is none of 408, 409, 429, 5xx but 507 comes, at most `attempts` times. `revive` is called
    after a lost connection: it may bring a local server back."""
    for attempt in range(1, attempts + 1):
        try:
            return call()
        except UnreachableError:
            if attempt == attempts:
                raise
            if revive is not None:
                revive()
            sleep(backoff_s(attempt))
        except RefusedError as error:
            if not error.retryable or attempt == attempts:
                raise
            sleep(error.retry_after_s if error.retry_after_s is not None else backoff_s(attempt))
    raise AssertionError("unreachable: the last attempt raises")


def backoff_s(attempt: int) -> float:
    """0.25, 0.5, 1 … seconds, a little scattered, at most a minute."""
    return float(min(_CAP_S, 0.25 * 2 ** (attempt - 1)) * random.uniform(0.8, 1.2))  # noqa: S311 - not a secret


def retry_after_s(headers: httpx.Headers) -> float | None:
    """Seconds that the answer asks to wait, at most a minute; None where it does not say."""
    for name, scale in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * scale
        except (KeyError, ValueError):
            continue
        if not math.isnan(seconds):
            return min(_CAP_S, max(0.0, seconds))
    return None


def refusal(response: httpx.Response) -> RefusedError | BillingError:
    """The provider's error envelope as an exception of ours. The response's body has been read."""
    try:
        error = response.json()["error"]
        code, message = str(error.get("code") or error.get("type") or ""), str(error.get("message") or "")
        param = str(error["param"]) if error.get("param") else None
    except (ValueError, KeyError, TypeError, AttributeError):
        code, message, param = "", _plain_words(response), None
    message = _unseen(message, response.request) or response.reason_phrase
    if code in BILLING_CODES:
        return BillingError(f"the provider refuses for its billing limit: {message}", "raise the limit, then run again")
    status, pause_s = response.status_code, retry_after_s(response.headers)
    return RefusedError(status, code, message, _hint(status), pause_s, param, plain=not _is_json(response))


def _is_json(response: httpx.Response) -> bool:
    try:
        return isinstance(response.json(), dict)
    except ValueError:
        return False


def _plain_words(response: httpx.Response) -> str:
    """What an answer without the envelope says: some providers put it into one field."""
    try:
        found = response.json()
    except ValueError:
        return response.text[:300]
    words = found.get("detail") or found.get("message") if isinstance(found, dict) else None
    return words if isinstance(words, str) else response.text[:300]


def _unseen(message: str, request: httpx.Request) -> str:
    """The provider's words without the key that it may repeat in them, and without what else a URL may hold."""
    for name in ("authorization", "api-key"):
        if key := request.headers.get(name, "").removeprefix("Bearer "):
            message = message.replace(key, HIDDEN)
    if request.url.password:
        message = message.replace(request.url.password, HIDDEN)
    return public(message)


def _hint(status: int) -> str:
    hints = {
        401: "check the API key: embedding.api_key_env names the environment variable it is read from",
        403: "the key may not do this: check its project and rights",
        404: "check embedding.base_url, and that the key belongs to the project that made the object",
        429: "the provider asks to slow down: run again later",
        507: "the provider's disk is full: make room there, then run again",
    }
    return hints.get(status, "")
