"""Trying again: how often, how long in between, and what the provider's error envelope becomes."""

import httpx
import pytest

from embedfill.errors import BillingError, ProviderError, RefusedError, UnreachableError
from embedfill.providers.retry import ATTEMPTS, backoff_s, refusal, retry_after_s, retrying


class Call:
    """Raises each of these errors once, then gives 7."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self) -> int:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return 7


def busy(retry_after_s: float | None = None) -> RefusedError:
    return RefusedError(429, "slow_down", "slow down", retry_after_s=retry_after_s)


def test_calls_once_where_all_is_well() -> None:
    call = Call()
    assert retrying(call, sleep=lambda _: pytest.fail("slept")) == 7
    assert call.calls == 1


def test_waits_as_long_as_the_provider_asks_and_grows_by_itself() -> None:
    slept: list[float] = []
    call = Call(busy(3.5), UnreachableError("lost"), busy(), busy(0.0))
    assert retrying(call, sleep=slept.append) == 7
    assert slept[0] == 3.5 and slept[3] == 0.0
    assert 0.4 <= slept[1] <= 0.6 and 0.8 <= slept[2] <= 1.2


@pytest.mark.parametrize("attempts", [1, 2, ATTEMPTS])
def test_gives_up_with_the_last_error(attempts: int) -> None:
    slept: list[float] = []
    call = Call(*[busy() for _ in range(20)])
    with pytest.raises(RefusedError):
        retrying(call, sleep=slept.append, attempts=attempts)
    assert (call.calls, len(slept)) == (attempts, attempts - 1)


@pytest.mark.parametrize(
    "error",
    [
        RefusedError(400, "bad", "bad"),
        RefusedError(401, "key", "key"),
        RefusedError(404, "", "gone"),
        RefusedError(507, "insufficient_storage", "full"),
        BillingError("no money"),
        ProviderError("nonsense"),
        ValueError("a mistake of ours"),
    ],
)
def test_what_no_retry_can_mend_is_raised_at_once(error: Exception) -> None:
    call = Call(error)
    with pytest.raises(type(error)):
        retrying(call, sleep=lambda _: pytest.fail("slept"))
    assert call.calls == 1


def test_only_a_lost_connection_revives() -> None:
    revived: list[int] = []
    call = Call(UnreachableError("lost"), busy(0.0), UnreachableError("lost"))
    retrying(call, lambda: revived.append(call.calls), sleep=lambda _: None)
    assert revived == [1, 3]


def test_what_cannot_be_revived_ends_the_retries() -> None:
    def revive() -> None:
        raise ProviderError("the engine does not start")

    call = Call(UnreachableError("lost"))
    with pytest.raises(ProviderError, match="does not start"):
        retrying(call, revive, sleep=lambda _: None)
    assert call.calls == 1


def test_the_pauses_double_up_to_a_minute() -> None:
    for attempt, middle in [(1, 0.25), (2, 0.5), (5, 4.0), (9, 60.0), (99, 60.0)]:
        pauses = [backoff_s(attempt) for _ in range(200)]
        assert 0.8 * middle <= min(pauses) < max(pauses) <= 1.2 * middle


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2.0),
        ({"Retry-After": "0.5"}, 0.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "86400"}, 60.0),
        ({"retry-after": "inf"}, 60.0),
        ({"retry-after": "nan"}, None),
    ],
)
def test_how_long_the_provider_asks_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(httpx.Headers(headers)) == seconds


def _response(status: int, content: bytes, **headers: str) -> httpx.Response:
    return httpx.Response(status, content=content, headers=headers, request=httpx.Request("GET", "http://x/v1"))


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        (b'{"error": {"message": "m", "type": "t", "param": null, "code": "c"}}', "c", "m"),
        (b'{"error": {"message": "m", "type": "t", "code": null}}', "t", "m"),
        (b'{"error": {"message": null, "code": null}}', "http_400", "Bad Request"),
        (b'{"error": "just words"}', "http_400", '{"error": "just words"}'),
        (b'{"detail": "words of another framework"}', "http_400", "words of another framework"),
        (b'{"detail": [{"loc": "body"}]}', "http_400", '{"detail": [{"loc": "body"}]}'),
        (b"[]", "http_400", "[]"),
        (b"<html>no</html>", "http_400", "<html>no</html>"),
        (b"\xff\xfe", "http_400", "\ufffd\ufffd"),
        (b"", "http_400", "Bad Request"),
    ],
)
def test_an_error_envelope_keeps_its_code_and_words(content: bytes, code: str, message: str) -> None:
    error = refusal(_response(400, content))
    assert isinstance(error, RefusedError)
    assert (error.status, error.code, error.message) == (400, code, message)


def test_long_nonsense_is_cut() -> None:
    assert len(refusal(_response(502, b"<html>" * 5000)).message) == 300


def test_the_parameter_that_is_blamed_is_kept() -> None:
    error = refusal(_response(400, b'{"error": {"message": "m", "code": "c", "param": "metadata.a"}}'))
    assert isinstance(error, RefusedError) and error.param == "metadata.a"


def test_a_refusal_carries_the_pause_that_was_asked_for() -> None:
    error = refusal(_response(429, b"", **{"retry-after": "4"}))
    assert isinstance(error, RefusedError) and error.retry_after_s == 4.0


@pytest.mark.parametrize("status", [401, 403, 404, 429])
def test_a_refusal_says_what_to_do(status: int) -> None:
    assert refusal(_response(status, b"")).hint
