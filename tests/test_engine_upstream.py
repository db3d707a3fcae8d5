"""One request to an upstream and what comes of it: answers, refusals, silence, and a key that nobody sees."""

import asyncio
import logging
import traceback
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import orjson
import pytest
from starlette.responses import Response

from embedfill.engine.relay import answers
from embedfill.engine.relay.limiter import Ticket
from embedfill.engine.relay.upstream import Reply, Route
from embedfill.engine.settings import RouteSettings
from embedfill.engine.work.job import Item
from embedfill.errors import ConfigError
from tests.upstream_fixtures import KEY, KEY_ENV, Cut, FakeUpstream, Hang, body_for, failure

CHAT = "/v1/chat/completions"
DOWN = "http://127.0.0.1:9/v1"


def ask(
    fake: FakeUpstream, said: str = "hello", body: dict[str, Any] | None = None, endpoint: str = CHAT, **settings: Any
) -> Reply:
    """One request by a route of its own."""
    route = Route("gpt-*", RouteSettings(base_url=fake.url, api_key_env=KEY_ENV, **settings))

    async def once() -> Reply:
        client = route.client()
        try:
            return await client.ask(endpoint, orjson.dumps(route.renamed(body or body_for(endpoint, said))))
        finally:
            await client.close()

    return asyncio.run(once())


def answering(content: bytes, status: int = 200, media_type: str = "application/json") -> Callable[[Any], Response]:
    return lambda _asked: Response(content, status, media_type=media_type)


def test_a_request_goes_to_the_base_url_with_the_routes_key(upstream: FakeUpstream) -> None:
    reply = ask(upstream)
    (asked,) = upstream.asked
    assert (reply.status, reply.fate, reply.outcome) == (200, "done", "fine")
    assert reply.body["choices"][0]["message"]["content"] == "HELLO"
    assert asked.path == CHAT and asked.headers["authorization"] == f"Bearer {KEY}"
    assert asked.headers["content-type"] == "application/json" and asked.headers["accept-encoding"] == "identity"


def test_a_base_url_may_end_in_a_slash_or_have_a_path_of_its_own(upstream: FakeUpstream) -> None:
    upstream.url += "/"
    assert ask(upstream).status == 200
    upstream.url = upstream.url.replace("/v1/", "/elsewhere/v1")
    assert ask(upstream).status == 404


@pytest.mark.parametrize(
    ("status", "fate", "outcome"),
    [
        *((status, "done", "fine") for status in (400, 403, 404, 413, 415, 422, 501)),
        *((status, "again", "trouble") for status in (408, 409, 425, 429, 500, 502, 503, 504, 529)),
        *((status, "hold", "blocked") for status in (401, 402)),
    ],
)
def test_what_a_status_means(upstream: FakeUpstream, status: int, fate: str, outcome: str) -> None:
    upstream.act = lambda _asked: failure(status, "some_code")
    reply = ask(upstream)
    assert (reply.status, reply.fate, reply.outcome) == (status, fate, outcome)
    assert reply.body["error"]["code"] == "some_code"


@pytest.mark.parametrize("code", ["insufficient_quota", "billing_hard_limit_reached"])
def test_an_account_without_money_is_no_fault_of_the_request(upstream: FakeUpstream, code: str) -> None:
    upstream.act = lambda _asked: failure(429, code)
    assert ask(upstream).outcome == "blocked"


def test_silence_is_a_reply_too(upstream: FakeUpstream) -> None:
    upstream.act = lambda _asked: Hang(60)
    late = ask(upstream, timeout_s=0.2)
    upstream.act = lambda _asked: Cut()
    cut = ask(upstream)
    upstream.url = "http://127.0.0.1:9/v1"
    down = ask(upstream)
    assert [reply.status for reply in (late, cut, down)] == [504, 502, 502]
    assert not any(reply.came for reply in (late, cut, down)) and {reply.fate for reply in (late, cut, down)} == {
        "again"
    }
    assert late.body["error"]["code"] == "upstream_timeout" and down.body["error"]["code"] == "upstream_unreachable"
    assert "127.0.0.1" not in str(down.body)  # where the server is, is not for every client to know


def test_an_answer_is_bounded(upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedfill.engine.relay.upstream.MAX_ANSWER_BYTES", 1000)
    upstream.act = answering(b'{"a": "' + b"x" * 2000 + b'"}')
    reply = ask(upstream)
    assert reply.body["error"]["code"] == "upstream_answer_too_large" and reply.fate == "done"


def test_a_large_answer_is_parsed_all_the_same(upstream: FakeUpstream) -> None:
    upstream.act = answering(orjson.dumps({"data": ["x" * 100] * 20_000}))
    assert len(ask(upstream).body["data"]) == 20_000


@pytest.mark.parametrize("content", [b"", b"<html>502</html>", b"[1]", b'{"id": "cut', b'"text"', b"[" * 100_000])
def test_a_success_that_is_no_json_object_is_none(upstream: FakeUpstream, content: bytes) -> None:
    upstream.act = answering(content)
    reply = ask(upstream)
    assert (reply.status, reply.fate, reply.came) == (502, "again", True)
    assert content[:20].decode() in reply.body["error"]["message"]


@pytest.mark.parametrize("content", [b"go away", b'{"detail": "go away"}', b'{"error": "go away"}'])
def test_a_refusal_in_another_form_gets_the_envelope(upstream: FakeUpstream, content: bytes) -> None:
    upstream.act = answering(content, 403, "text/plain")
    reply = ask(upstream)
    assert reply.status == 403 and set(reply.body["error"]) == {"message", "type", "param", "code"}
    assert "go away" in reply.body["error"]["message"]


def test_a_redirect_is_not_followed_with_the_key(upstream: FakeUpstream) -> None:
    upstream.act = lambda _asked: Response(status_code=307, headers={"location": "http://127.0.0.1:9/v1"})
    reply = ask(upstream)
    assert (reply.status, reply.fate) == (502, "hold") and len(upstream.asked) == 1
    assert reply.body["error"]["code"] == "upstream_redirects" and "127.0.0.1" not in str(reply.body)
    assert "base_url" in str(reply.remedy) and "http://127.0.0.1:9/v1" in str(reply.remedy)


def test_numbers_that_json_has_not_become_null_and_half_characters_a_sign(upstream: FakeUpstream) -> None:
    upstream.act = answering(rb'{"data": [NaN, 1.5, -Infinity], "text": "a\ud83dz"}')
    assert ask(upstream).body == {"data": [None, 1.5, None], "text": "a�z"}


def test_a_model_has_its_own_name_there_and_the_clients_here(upstream: FakeUpstream) -> None:
    route = Route("gpt-4o", RouteSettings(base_url=upstream.url, model="org/Llama-3"))
    reply = ask(upstream, model="org/Llama-3")
    assert upstream.asked[0].body["model"] == "org/Llama-3" and reply.body["model"] == "org/Llama-3"
    assert route.restored(reply.body, "gpt-4o")["model"] == "gpt-4o"
    other = Route("gpt-4o", RouteSettings(base_url=upstream.url))
    assert other.restored({"model": "gpt-4o-2024-08-06"}, "gpt-4o")["model"] == "gpt-4o-2024-08-06"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": ""}, None),
        ({}, None),
    ],
)
def test_what_a_server_asks_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert Reply(429, {}, b"", httpx.Headers(headers)).retry_after_s == seconds


def test_a_server_may_name_the_time() -> None:
    when = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    seconds = Reply(503, {}, b"", httpx.Headers({"retry-after": when})).retry_after_s
    assert seconds is not None and 80 < seconds <= 90


def test_the_key_is_shown_to_the_upstream_alone(upstream: FakeUpstream, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    upstream.act = lambda _asked: failure(400, message=f"you sent {KEY}, which is wrong")
    settings = RouteSettings(base_url=upstream.url, api_key_env=KEY_ENV)
    route = Route("gpt-*", settings)
    refused = ask(upstream)
    upstream.url = "http://127.0.0.1:9/v1"
    down = ask(upstream)
    shown = f"{route!r} {vars(route)} {route.client()!r} {settings!r} {refused.body} {refused.content!r} {down.body}"
    assert KEY not in shown and "***" in refused.body["error"]["message"]
    assert KEY not in caplog.text


@pytest.mark.parametrize(
    ("key", "said", "shown"),
    [
        ("code", {"error": {"code": "code"}}, {"error": {"code": "code"}}),  # a word like any other
        ("12345678", {"error": {"at": 12345678, "say": "x12345678y"}}, {"error": {"at": 12345678, "say": "x***y"}}),
        ('a"b\\c/defg', {"error": {"say": 'your a"b\\c/defg!'}}, {"error": {"say": "your ***!"}}),
    ],
)
@pytest.mark.parametrize("status", [200, 400])
def test_a_key_is_taken_out_of_what_is_said_and_nothing_else(
    upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch, key: str, said: object, shown: object, status: int
) -> None:
    monkeypatch.setenv(KEY_ENV, key)
    for content in (orjson.dumps(said), orjson.dumps(said).replace(b"/", b"\\/")):
        upstream.act = answering(content, status)
        reply = ask(upstream)
        assert reply.body == shown and orjson.loads(reply.content) == shown


@pytest.mark.parametrize("value", [None, "", "   ", "ключ", "two\nlines"])
def test_a_route_whose_key_is_missing_or_cannot_be_sent_says_so_at_the_start(value: str | None) -> None:
    environ = {} if value is None else {"A_KEY": value}
    with pytest.raises(ConfigError) as caught:
        Route("gpt-*", RouteSettings(base_url="http://127.0.0.1:9", api_key_env="A_KEY"), environ=environ)
    assert "engine.routes.gpt-*.api_key_env" in str(caught.value)
    assert not value or not value.strip() or value not in "".join(traceback.format_exception(caught.value))


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(
    upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert ask(upstream).status == 200


def test_the_limits_of_a_route_are_its_settings() -> None:
    route = Route("m", RouteSettings(base_url=DOWN, concurrency=2, requests_per_minute=1))
    assert isinstance(route.limiter.enter(1), Ticket)
    wait = route.limiter.enter(1)
    assert isinstance(wait, float) and 59 < wait <= 60
    tokens = Route("m", RouteSettings(base_url=DOWN, tokens_per_minute=60_000)).limiter
    assert isinstance(tokens.enter(3_000), Ticket) and isinstance(tokens.enter(3_000), float)


CHAT_USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 5,
    "prompt_tokens_details": {"cached_tokens": 3},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
RESPONSES_USAGE = {
    "input_tokens": 7,
    "output_tokens": 5,
    "input_tokens_details": {"cached_tokens": 3},
    "output_tokens_details": {"reasoning_tokens": 2},
}


@pytest.mark.parametrize("usage", [CHAT_USAGE, RESPONSES_USAGE])
def test_usage_is_read_in_the_words_of_every_endpoint(usage: dict[str, Any]) -> None:
    expected = {"tokens": 7, "cached_tokens": 3, "output_tokens": 5, "reasoning_tokens": 2}
    assert answers.usage({"usage": usage}) == expected
    reply = Reply(200, {"usage": usage}, b"", httpx.Headers({"x-request-id": "req_7"}))
    route = Route("m", RouteSettings(base_url="http://127.0.0.1:9"))
    result = answers.result(Item(3, "c", {"model": "m"}, 10), reply, route)
    assert (result.line, result.spool, result.tokens, result.output_tokens) == (3, "output", 7, 5)
    assert (result.cached_tokens, result.reasoning_tokens, answers.cost(reply)) == (3, 2, 12)
    assert orjson.loads(result.text)["response"]["request_id"] == "req_7"


@pytest.mark.parametrize(
    "usage", [None, [], "many", {"prompt_tokens": -3}, {"prompt_tokens": "7"}, {"prompt_tokens": 1.5}]
)
def test_usage_that_makes_no_sense_counts_nothing(usage: object) -> None:
    assert not any(answers.usage({"usage": usage}).values())


def test_usage_beyond_all_reason_does_not_break_the_sums() -> None:
    assert answers.usage({"usage": {"prompt_tokens": 10**30}})["tokens"] <= 10**9


def test_a_request_is_thought_to_cost_its_bytes_and_what_it_may_be_answered_with() -> None:
    assert answers.estimate({"max_tokens": 100}, 400) == 201
    assert answers.estimate({"max_completion_tokens": 50, "max_tokens": None}, 400) == 151
    assert answers.estimate({"max_output_tokens": "all"}, 400) == 101


@pytest.mark.parametrize("given", ["", "x" * 500, "a\tb"])
def test_an_odd_request_id_of_an_upstream_is_replaced(given: str) -> None:
    reply = Reply(200, {}, b"", httpx.Headers({"x-request-id": given}))
    route = Route("m", RouteSettings(base_url="http://127.0.0.1:9"))
    line = orjson.loads(answers.result(Item(1, "c", {"model": "m"}, 10), reply, route).text)
    assert line["response"]["request_id"] not in ("", given)
