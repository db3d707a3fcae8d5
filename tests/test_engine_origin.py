"""Requests that a web page has a browser send, to an engine that asks for no key: none is taken for the user's own."""

from urllib.parse import urlsplit

import httpx
import pytest
from starlette.datastructures import Headers

from embedfill.engine.http.origin import foreign
from tests.engine_fixtures import EngineProcess, batch_body

EVIL = {"Origin": "http://evil.example"}


@pytest.mark.parametrize(
    "headers",
    [
        {},  # a client that speaks no HTTP/1.1
        {"host": "127.0.0.1:8420"},
        {"host": "127.0.0.2"},
        {"host": "LocalHost:1", "origin": "http://localhost:1"},
        {"host": "[::1]:8420", "origin": "http://[::1]:8420", "sec-fetch-site": "same-origin"},
        {"host": "localhost", "sec-fetch-site": "none"},
    ],
)
def test_a_program_is_let_in(headers: dict[str, str]) -> None:
    assert foreign(Headers(headers)) is None


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"host": "evil.example:8420"}, "foreign_host"),
        ({"host": "127.0.0.1.evil.example"}, "foreign_host"),
        ({"host": "localhost@evil.example"}, "foreign_host"),
        ({"host": ""}, "foreign_host"),
        ({"host": "[::1"}, "foreign_host"),
        ({"host": "evil.example", "origin": "http://evil.example"}, "foreign_host"),
        ({"host": "localhost:1", "origin": "http://localhost:2"}, "foreign_origin"),
        ({"host": "localhost:1", "origin": "null"}, "foreign_origin"),
        ({"host": "localhost:1", "sec-fetch-site": "cross-site"}, "foreign_origin"),
        ({"host": "localhost:1", "sec-fetch-site": "same-site"}, "foreign_origin"),
        ({"origin": "http://evil.example"}, "foreign_origin"),
    ],
)
def test_a_page_is_not(headers: dict[str, str], code: str) -> None:
    refusal = foreign(Headers(headers))
    assert refusal is not None and (refusal.status, refusal.code) == (403, code)


def test_two_hosts_are_none() -> None:
    assert foreign(Headers(raw=[(b"host", b"localhost"), (b"host", b"evil.example")])) is not None


def test_what_a_page_can_send_without_asking_has_no_effect(engine: EngineProcess) -> None:
    before = engine.get("/files").json()
    file = {"file": ("x.jsonl", b"{}\n")}
    answers = [
        engine.post("/files", data={"purpose": "batch"}, files=file, headers=EVIL),
        engine.post("/batches", content=str(batch_body("file-x")), headers={**EVIL, "Content-Type": "text/plain"}),
        engine.post("/chat/completions", content=b"{}", headers={"Sec-Fetch-Site": "cross-site"}),
        engine.get("/files", headers={"Host": "evil.example"}),
        httpx.get(engine.url.removesuffix("/v1") + "/metrics", headers={"Host": "evil.example"}),
    ]
    assert [answer.status_code for answer in answers] == [403] * 5
    assert all(answer.json()["error"]["code"].startswith("foreign_") for answer in answers)
    assert engine.get("/files").json() == before
    assert httpx.get(engine.url.removesuffix("/v1") + "/healthz", headers={"Host": "probe.example"}).is_success


def test_every_name_of_this_machine_is_one(engine: EngineProcess) -> None:
    for host in ("localhost", f"localhost:{urlsplit(engine.url).port}", "[::1]"):
        assert engine.get("/models", headers={"Host": host}).is_success


def test_nobody_is_sent_elsewhere(engine: EngineProcess) -> None:
    for path in ("/batches/", "/files/", "/../batches/", "/../healthz/"):
        answer = engine.post(path, json={})
        assert answer.status_code == 404 and answer.json()["error"]["code"] == "not_found"
    assert engine.get("/").status_code == engine.get("").status_code == 404
