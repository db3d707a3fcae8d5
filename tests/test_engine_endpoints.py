"""The endpoints of requests, synchronously: passed through, streamed, refused, and let go when the client goes."""

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import orjson
import pytest
from starlette.responses import Response

from embedfill.batchapi.models import ENDPOINTS
from embedfill.engine.http import passage
from embedfill.engine.http.passage import Turnstile
from embedfill.engine.owners import ANYBODY
from embedfill.engine.relay.limiter import Limiter, Ticket
from embedfill.engine.relay.upstream import Route
from embedfill.engine.settings import RouteSettings
from embedfill.errors import RefusedError
from tests.engine_fixtures import STATIC, EngineProcess, jsonl, until
from tests.upstream_fixtures import (
    KEY,
    KEY_ENV,
    Cut,
    FakeUpstream,
    Hang,
    body_for,
    failure,
    request_for,
    routes_toml,
    serving,
    streamed,
    streamed_start,
)

CHAT = "/v1/chat/completions"
COOKIES = {"cookie": "session=mine", "authorization": "Bearer sk-client-key", "x-secret": "s", "te": "trailers"}


class Passing:
    """One engine and one fake upstream, for all tests here."""

    def __init__(self, folder: Path) -> None:
        self.fake = FakeUpstream()
        self._serving = serving(self.fake)
        self._serving.__enter__()
        here = {"base_url": self.fake.url, "api_key_env": KEY_ENV, "concurrency": 4}
        routes = {
            "gpt-*": here,
            "alias": {**here, "model": "org/Llama-3"},
            "omni-moderation-*": here,
            "hasty": {**here, "timeout_s": 0.2},
            "down": {"base_url": "http://127.0.0.1:9/v1"},
            "chat-only": {**here, "endpoints": [CHAT]},
            STATIC + "-there": here,
            "narrow": {**here, "concurrency": 1},
        }
        self.engine = EngineProcess(folder / "data", "--config", str(routes_toml(folder, routes))).start()

    def post(self, endpoint: str, body: dict[str, Any], **options: Any) -> httpx.Response:
        return self.engine.post(endpoint.removeprefix("/v1"), json=body, **options)

    def chat(self, said: str = "hello you", model: str = "gpt-test", **body: Any) -> httpx.Response:
        return self.post(CHAT, body_for(CHAT, said, model, **body))


@pytest.fixture(scope="module")
def engine_and_upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Passing]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY_ENV, KEY)
        passing = Passing(tmp_path_factory.mktemp("passing"))
        yield passing
        passing.engine.close()
        passing._serving.__exit__()


@pytest.fixture
def passing(engine_and_upstream: Passing) -> Passing:
    fake = engine_and_upstream.fake
    until(lambda: fake.at_once, lambda count: count == 0)
    fake.act, fake.pause_s, fake.peak, fake.broken_off = lambda _asked: None, 0.0, 0, 0
    fake.asked.clear()
    return engine_and_upstream


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_every_endpoint_is_passed_through(passing: Passing, endpoint: str) -> None:
    answer = passing.post(endpoint, body_for(endpoint, "hello you"), headers=COOKIES)
    (asked,) = passing.fake.asked
    assert answer.status_code == 200 and answer.json()["model"] == "gpt-test"
    assert asked.path == endpoint and asked.body == body_for(endpoint, "hello you")
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert not {"cookie", "x-secret", "te"} & asked.headers.keys() and "sk-client-key" not in str(asked.headers)
    assert answer.headers["content-type"] == "application/json" and "set-cookie" not in answer.headers
    assert answer.headers["x-upstream-request-id"] == "req_hello you"
    assert answer.headers["x-ratelimit-limit-requests"] == "9"
    passing.post(endpoint, body_for(endpoint, "again"))
    assert "cookie" not in passing.fake.asked[1].headers  # nor is one client given what another was


def test_the_official_client_works_with_a_route_and_without(passing: Passing) -> None:
    with openai.OpenAI(base_url=passing.engine.url, api_key="any", max_retries=0) as client:
        said: list[Any] = [{"role": "user", "content": "hello"}]
        chat = client.chat.completions.create(model="gpt-test", messages=said)
        assert chat.choices[0].message.content == "HELLO"
        words = [
            chunk.choices[0].delta.content
            for chunk in client.chat.completions.create(model="gpt-test", messages=said * 2, stream=True)
        ]
        assert words == ["hello"]
        assert client.moderations.create(input="bad").results[0].flagged
        assert client.embeddings.create(model=STATIC, input="here", encoding_format="float").usage.prompt_tokens > 0
        assert len(passing.fake.asked) == 3


def test_what_was_sent_and_answered_is_passed_on_byte_for_byte(passing: Passing) -> None:
    body = b'{"model":"gpt-test", "messages":[{"role":"user","content":"h\\u00e9"}], "seed":12345678901234567890123}'
    raw = b'{"object" : "chat.completion", "n":1.0, "model":"gpt-test"}\n'
    seen: list[bytes] = []
    passing.fake.act = lambda asked: seen.append(orjson.dumps(asked.body)) or Response(raw)  # type: ignore[func-returns-value]
    answer = passing.engine.post("/chat/completions", content=body, headers={"content-type": "application/json"})
    assert answer.content == raw
    assert seen == [orjson.dumps(orjson.loads(body))]


def test_an_idempotency_key_is_its_owners_own_upstream(passing: Passing) -> None:
    for _ in range(2):
        passing.engine.post("/chat/completions", json=body_for(CHAT, "x"), headers={"Idempotency-Key": "order-1"})
    first, second = (asked.headers["idempotency-key"] for asked in passing.fake.asked)
    assert first == second == passage._asked({"idempotency-key": "order-1"}, ANYBODY)["idempotency-key"]
    others = {passage._asked({"idempotency-key": "order-1"}, owner)["idempotency-key"] for owner in ("a", "b")}
    assert len(others | {first, "order-1"}) == 4
    assert "idempotency-key" not in passage._asked({}, "a")


def test_a_renamed_model(passing: Passing) -> None:
    answer = passing.chat(model="alias")
    assert passing.fake.asked[0].body["model"] == "org/Llama-3" and answer.json()["model"] == "alias"


def test_a_moderation_need_not_name_a_model(passing: Passing) -> None:
    answer = passing.post("/v1/moderations", {"input": "all bad"})
    assert answer.json()["results"] == [{"flagged": True}] and "model" not in passing.fake.asked[0].body


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"model": "gpt"}, 404, "model_not_found"),
        ({"model": STATIC}, 404, "model_not_found"),  # embeds only
        ({}, 400, "missing_required_parameter"),
        ({"model": ""}, 400, "missing_required_parameter"),
        ({"model": 7}, 400, "invalid_type"),
        ({"model": []}, 400, "invalid_type"),
    ],
)
def test_what_nobody_serves_is_refused_here(passing: Passing, body: dict[str, Any], status: int, code: str) -> None:
    answer = passing.post(CHAT, {"messages": [], **body})
    assert answer.status_code == status and answer.json()["error"]["code"] == code and not passing.fake.asked


def test_a_route_may_be_of_some_endpoints_only(passing: Passing) -> None:
    assert passing.chat(model="chat-only").status_code == 200
    answer = passing.post("/v1/completions", body_for("/v1/completions", "x", "chat-only"))
    error = answer.json()["error"]
    assert answer.status_code == 404 and error["code"] == "model_not_found"
    there = error["message"].partition("there are: ")[2].rstrip(".").split(", ")
    assert {"gpt-*", "alias"} <= set(there) and not {"chat-only", STATIC} & set(there)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff"])
def test_a_body_that_is_no_object_is_refused_here(passing: Passing, content: bytes) -> None:
    assert passing.engine.post("/responses", content=content).status_code == 400


@pytest.mark.parametrize("stream", [False, True])
def test_refusals_of_the_upstream_are_the_clients_with_what_they_ask_to_wait(passing: Passing, stream: bool) -> None:
    passing.fake.act = lambda _asked: failure(429, "slow_down", retry_after_ms="30", retry_after="1")
    answer = passing.chat(stream=stream)
    assert answer.status_code == 429 and answer.json()["error"]["code"] == "slow_down"
    assert (answer.headers["retry-after-ms"], answer.headers["retry-after"]) == ("30", "1")
    passing.fake.act = lambda _asked: failure(400, "bad")
    answer = passing.chat(stream=stream)
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "bad"


def test_the_engines_own_key_is_not_the_clients_to_mend(passing: Passing) -> None:
    passing.fake.act = lambda _asked: failure(401, "invalid_api_key", f"Incorrect API key: {KEY}")
    answer = passing.chat()
    assert answer.status_code == 502 and answer.json()["error"]["code"] == "upstream_unauthorized"
    assert KEY not in answer.text and answer.headers["x-should-retry"] == "false"


def test_a_redirect_is_the_operators_to_mend(passing: Passing) -> None:
    passing.fake.act = lambda _asked: Response(status_code=302, headers={"location": "https://elsewhere.example/v1"})
    answer = passing.chat()
    assert answer.status_code == 502 and answer.json()["error"]["code"] == "upstream_redirects"
    assert "elsewhere" not in answer.text and answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("model", "status"), [("down", 502), ("hasty", 504)])
def test_an_upstream_that_does_not_answer(passing: Passing, model: str, status: int, stream: bool) -> None:
    passing.fake.act = lambda _asked: Hang(1.0)
    answer = passing.chat(model=model, stream=stream)
    assert answer.status_code == status and set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_an_answer_that_breaks_off_is_not_taken_for_a_whole_one(passing: Passing) -> None:
    passing.fake.act = lambda _asked: Cut()
    assert passing.chat().status_code == 502
    with pytest.raises(httpx.RemoteProtocolError):
        passing.chat(stream=True)
    passing.fake.act = lambda _asked: Cut(b"data: {}\n\n", "text/event-stream")
    first, last = passing.chat(stream=True).text.split("\n\n", 1)
    assert first == "data: {}"
    assert orjson.loads(last.removeprefix("data: "))["error"]["code"] == "upstream_unreachable"
    with openai.OpenAI(base_url=passing.engine.url, api_key="any", max_retries=0) as client:
        said: list[Any] = [{"role": "user", "content": "hello"}]
        passing.fake.act = lambda asked: Cut(streamed_start(asked), "text/event-stream")
        stream = client.chat.completions.create(model="gpt-test", messages=said, stream=True)
        assert next(stream).choices[0].delta.content == "hello"
        with pytest.raises(openai.APIError, match="broke off"):
            next(stream)


def test_a_stream_comes_as_it_is_made(passing: Passing) -> None:
    passing.fake.act = lambda asked: streamed(asked, 0.3)
    body = body_for(CHAT, "one two three", stream=True)
    began, times = time.monotonic(), []
    with passing.engine.http.stream("POST", f"{passing.engine.url}/chat/completions", json=body) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for part in answer.iter_raw():
            times += [time.monotonic() - began] * part.count(b'"content"')
    assert len(times) == 3 and times[1] - times[0] > 0.15 and times[2] - times[1] > 0.15


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_takes_its_request_along(passing: Passing, stream: bool) -> None:
    passing.fake.act = lambda _asked: Hang()
    with httpx.Client(timeout=0.3) as impatient, pytest.raises(httpx.ReadTimeout):
        impatient.post(f"{passing.engine.url}/chat/completions", json=body_for(CHAT, "x", stream=stream))
    until(lambda: passing.fake.broken_off, lambda count: count == 1)


def test_a_client_that_leaves_a_stream_gives_its_place_back(passing: Passing) -> None:
    passing.fake.act = lambda asked: streamed(asked, 5.0) if asked.body.get("stream") else None
    body = body_for(CHAT, "a b c", "narrow", stream=True)
    with passing.engine.http.stream("POST", f"{passing.engine.url}/chat/completions", json=body) as answer:
        next(answer.iter_raw())
    began = time.monotonic()
    assert passing.chat("d", "narrow").status_code == 200 and time.monotonic() - began < 4


def test_single_requests_go_before_those_of_batches_and_share_their_limit(passing: Passing) -> None:
    passing.fake.pause_s = 0.1
    lines = [request_for(CHAT, f"line {number}", f"line {number}", "narrow") for number in range(15)]
    batch_id = passing.engine.submit(jsonl(lines), endpoint=CHAT)
    until(lambda: len(passing.fake.asked), lambda count: count >= 2)
    before = len(passing.fake.asked)
    assert passing.chat("urgent", "narrow").status_code == 200
    place = [asked.said for asked in passing.fake.asked].index("urgent")
    assert place <= before + 1 and passing.fake.peak == 1
    batch = passing.engine.finished(batch_id)
    assert batch["request_counts"] == {"total": 15, "completed": 15, "failed": 0} and passing.fake.peak == 1


def test_streaming_is_refused_in_a_batch(passing: Passing) -> None:
    batch_id = passing.engine.submit(jsonl([request_for(CHAT, "a", "a", stream=True)]), endpoint=CHAT)
    batch = passing.engine.finished(batch_id)
    assert batch["status"] == "failed"
    assert batch["errors"]["data"][0]["code"] == "streaming_unsupported" and not passing.fake.asked


def test_models_are_listed_by_name_and_found_by_pattern(passing: Passing) -> None:
    listed = {model["id"]: model["owned_by"] for model in passing.engine.get("/models").json()["data"]}
    assert listed["alias"] == "upstream" and listed[STATIC] == "embedfill" and "gpt-*" not in listed
    assert passing.engine.get("/models/gpt-whatever").json()["id"] == "gpt-whatever"
    assert passing.engine.get("/models/nobody").status_code == 404


def test_many_clients_at_once_all_get_their_own_answer(passing: Passing) -> None:
    passing.fake.pause_s = 0.01
    answers: dict[str, str] = {}

    def ask(said: str) -> None:
        with httpx.Client(timeout=30.0) as http:
            body = body_for(CHAT, said)
            reply = http.post(f"{passing.engine.url}/chat/completions", json=body).raise_for_status()
            answers[said] = reply.json()["choices"][0]["message"]["content"]

    threads = [threading.Thread(target=ask, args=(f"client {number}",)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert answers == {f"client {number}": f"CLIENT {number}" for number in range(24)}
    assert passing.fake.peak <= 4


def test_the_numbers_of_a_route_are_told(passing: Passing) -> None:
    passing.chat()
    metrics = passing.engine.http.get(passing.engine.url.removesuffix("/v1") + "/metrics").text
    assert 'embedfill_upstream_seconds_count{outcome="200",route="gpt-*"}' in metrics


def turnstile(**settings: Any) -> Turnstile:
    return Turnstile(Route("gpt-*", RouteSettings(base_url="http://127.0.0.1:9", **settings)))


def test_who_cannot_have_a_turn_in_time_is_told_when_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refusal(stile: Turnstile) -> RefusedError:
        with pytest.raises(RefusedError) as caught:
            await stile.enter(1)
        return caught.value

    paused = turnstile(concurrency=1)
    _enter(paused.route.limiter)
    paused.route.limiter.leave(_enter(turnstile().route.limiter), "trouble", retry_after_s=200.0)
    error = asyncio.run(refusal(paused))
    assert error.status == 429 and error.retry_after_s is not None and error.retry_after_s > 190
    monkeypatch.setattr(passage, "_TURN_S", 0.05)
    full = turnstile(concurrency=1)
    _enter(full.route.limiter)
    assert asyncio.run(refusal(full)).status == 429
    assert isinstance(full.route.limiter.enter(1), float) and full.route.limiter.under_way == 1


def test_turns_are_given_in_the_order_of_arrival() -> None:
    async def order() -> list[int]:
        stile, served = turnstile(concurrency=1), []
        assert stile.client
        held = await stile.enter(1)

        async def wait(number: int) -> None:
            ticket = await stile.enter(1)
            served.append(number)
            stile.route.limiter.leave(ticket, "fine")

        tasks = [asyncio.create_task(wait(number)) for number in range(8)]
        await asyncio.sleep(0.01)
        stile.route.limiter.leave(held, "fine")
        await asyncio.gather(*tasks)
        await stile.client.close()
        return served

    assert asyncio.run(order()) == list(range(8))


def _enter(limiter: Limiter) -> Ticket:
    ticket = limiter.enter(1)
    assert isinstance(ticket, Ticket)
    return ticket
