"""The HTTP client against a provider that misbehaves: what is sent again and what never, listings, sizes, secrets."""

import logging
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import orjson
import pytest
from pydantic import SecretStr

from embedfill.batchapi.models import Batch
from embedfill.clock import Clock
from embedfill.errors import (
    BillingError,
    ConfigError,
    EmbedfillError,
    MissingError,
    ProviderError,
    RefusedError,
    UnreachableError,
)
from embedfill.providers.client import BatchClient
from tests.engine_fixtures import EngineProcess
from tests.provider_fixtures import (
    Provider,
    Reply,
    Request,
    Script,
    accept_and_drop,
    accept_and_refuse,
    drop,
    refuse,
    reset,
    say,
    vector,
)

KEY = "sk-a-key-that-nobody-may-see"
MB = 1 << 20


@pytest.fixture
def upload(tmp_path: Path) -> Path:
    path = tmp_path / "input.jsonl"
    path.write_bytes('{"text": "\u2028 “é” 😀"}\n'.encode())
    return path


def test_an_upload_arrives_byte_by_byte(client: BatchClient, provider: Provider, upload: Path) -> None:
    file = client.upload(upload, "shard.jsonl")
    assert provider.files[file.id] == upload.read_bytes()
    assert (file.filename, file.bytes) == ("shard.jsonl", upload.stat().st_size)
    assert b'name="purpose"\r\n\r\nbatch' in provider.requests[0].body
    assert provider.requests[0].body.index(b'name="purpose"') < provider.requests[0].body.index(b'name="file"')


TROUBLES: dict[str, Script] = {
    "408": refuse(408),
    "409": refuse(409),
    "429": refuse(429, "rate_limit_exceeded"),
    "429 in ms": refuse(429, retry_after_ms="1"),
    "429 in s": refuse(429, retry_after="0.001"),
    "500": refuse(500),
    "502 of a proxy": say(b"<html>bad gateway</html>", 502),
    "503": refuse(503),
    "dropped": drop,
    "reset": reset,
    "not JSON": say(b"<html>hello</html>"),
    "not the object": say(b'{"object": "list"}'),
    "half of it": lambda provider, request: Reply(200, b'{"id": "', {"Content-Length": "400"}),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_passing_trouble_is_tried_again(client: BatchClient, provider: Provider, upload: Path, trouble: str) -> None:
    for method, path in (("POST", "/files"), ("GET", "/files/.*"), ("GET", "/batches"), ("GET", "/batches/.*")):
        provider.script(method, path, TROUBLES[trouble], TROUBLES[trouble])
    provider.hold = True
    file = client.upload(upload, "shard.jsonl")
    batch = client.create_batch(file.id, {})
    assert client.file(file.id).bytes == upload.stat().st_size
    assert [one.id for one in client.batches()] == [batch.id]
    found = client.batch(batch.id)
    assert found is not None and found.id == batch.id
    assert [provider.count("POST", "/files"), provider.count("GET", "/batches")] == [3, 3]


@pytest.mark.parametrize("trouble", ["408", "429", "500", "dropped", "reset", "not JSON"])
def test_trouble_that_lasts_is_told(client: BatchClient, provider: Provider, trouble: str) -> None:
    provider.script("GET", "/batches", *[TROUBLES[trouble]] * 20)
    with pytest.raises(ProviderError) as raised:
        list(client.batches())
    assert raised.value.retryable
    assert provider.count("GET", "/batches") == 6


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_a_refusal_is_final(client: BatchClient, provider: Provider, status: int) -> None:
    provider.script("GET", "/batches", refuse(status, "some_code", "some words"))
    with pytest.raises(RefusedError, match="some words") as raised:
        list(client.batches())
    assert (raised.value.status, raised.value.code, raised.value.retryable) == (status, "some_code", False)
    assert provider.count("GET", "/batches") == 1


@pytest.mark.parametrize("code", ["insufficient_quota", "billing_hard_limit_reached"])
def test_a_billing_limit_is_never_tried_again(client: BatchClient, provider: Provider, upload: Path, code: str) -> None:
    provider.script("POST", "/files", refuse(429, code, "you have run out"))
    with pytest.raises(BillingError, match="you have run out") as raised:
        client.upload(upload, "shard.jsonl")
    assert raised.value.exit_code == 5
    assert provider.count("POST") == 1


@pytest.mark.parametrize(
    "trouble", [*TROUBLES.values(), accept_and_drop, accept_and_refuse(500), accept_and_refuse(502)]
)
def test_a_batch_is_posted_once_whatever_comes_back(client: BatchClient, provider: Provider, trouble: Script) -> None:
    provider.script("POST", "/batches", trouble)
    with pytest.raises(ProviderError):
        client.create_batch("file-1", {"a": "b"})
    assert provider.count("POST", "/batches") == 1
    assert len(provider.batches) <= 1


def test_a_batch_asks_for_embeddings_within_a_day(client: BatchClient, provider: Provider) -> None:
    client.create_batch("file-1", {"embedfill_shard": "x"})
    assert orjson.loads(provider.requests[0].body) == {
        "input_file_id": "file-1",
        "endpoint": "/v1/embeddings",
        "completion_window": "24h",
        "metadata": {"embedfill_shard": "x"},
    }


@pytest.mark.parametrize("trouble", [drop, reset, say(b"garbage"), accept_and_refuse(502)])
def test_an_unclear_answer_to_a_new_batch_says_that_it_is_unclear(
    client: BatchClient, provider: Provider, trouble: Script
) -> None:
    provider.script("POST", "/batches", trouble)
    with pytest.raises(ProviderError) as raised:
        client.create_batch("file-1", {})
    assert isinstance(raised.value, UnreachableError) or getattr(raised.value, "status", 0) >= 500


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7])
def test_a_listing_is_read_to_its_end(client: BatchClient, provider: Provider, count: int) -> None:
    made = [provider.add_batch(f"file-{n}")["id"] for n in range(count)]
    assert [batch.id for batch in client.batches(page_size=2)] == made[::-1]
    assert provider.count("GET", "/batches") == max(1, -(-count // 2))


def test_a_listing_without_last_id_goes_on_after_its_last_batch(client: BatchClient, provider: Provider) -> None:
    made = [provider.add_batch(f"file-{n}")["id"] for n in range(5)]

    def no_last_id(provider: Provider, request: Request) -> Reply:
        reply = provider.handle(request)
        return Reply(200, orjson.dumps({**orjson.loads(reply.body), "last_id": None}))

    provider.script("GET", "/batches", *[no_last_id] * 3)
    assert [batch.id for batch in client.batches(page_size=2)] == made[::-1]


def test_a_listing_that_turns_in_a_circle_is_refused(client: BatchClient, provider: Provider) -> None:
    """A server that ignores `after` gives its first page for ever."""
    batch = provider.add_batch("file-1")
    page = orjson.dumps({"object": "list", "data": [batch], "has_more": True, "last_id": batch["id"]})
    provider.script("GET", "/batches", *[say(page)] * 50)
    with pytest.raises(ProviderError, match="same page"):
        list(client.batches())


def test_an_empty_page_ends_a_listing(client: BatchClient, provider: Provider) -> None:
    provider.script("GET", "/batches", say(b'{"object": "list", "data": [], "has_more": true}'))
    assert list(client.batches()) == []


def test_a_batch_in_a_listing_that_is_none_is_an_error(client: BatchClient, provider: Provider) -> None:
    """It might be ours: to leave it out could mean to pay again."""
    provider.script("GET", "/batches", say(b'{"object": "list", "data": [{"id": 7}]}'))
    with pytest.raises(ProviderError, match="Batch in a listing"):
        list(client.batches())


def test_null_in_place_of_what_is_left_out(client: BatchClient, provider: Provider) -> None:
    """Some servers send null where others send nothing."""
    batch = provider.add_batch("file-1", usage=None, request_counts={"total": None}, error_file_id="")
    found = client.batch(batch["id"])
    assert isinstance(found, Batch)
    assert found.request_counts is not None and found.request_counts.total == 0


def test_a_batch_that_is_not_there_is_none(client: BatchClient, provider: Provider) -> None:
    assert client.batch("batch-0") is None
    provider.script("GET", "/batches/.*", refuse(403))
    with pytest.raises(RefusedError):
        client.batch("batch-0")


@pytest.mark.parametrize("status", ["in_progress", "completed", "failed", "cancelled"])
def test_to_cancel_is_idempotent(client: BatchClient, provider: Provider, status: str) -> None:
    batch = provider.add_batch("file-1", status=status)
    client.cancel(batch["id"])
    client.cancel(batch["id"])
    client.cancel("batch-0")
    assert batch["status"] == ("cancelled" if status == "in_progress" else status)
    assert provider.count("POST") == 3  # a 409 here is an answer, nothing to try again


def test_to_cancel_can_be_refused(client: BatchClient, provider: Provider) -> None:
    provider.script("POST", "/batches/.*", refuse(401, "invalid_api_key"))
    with pytest.raises(RefusedError):
        client.cancel("batch-1")


def test_to_delete_a_file_is_idempotent(client: BatchClient, provider: Provider) -> None:
    file_id = provider.add_file(b"x")
    client.delete_file(file_id)
    client.delete_file(file_id)
    assert provider.files == {}
    provider.script("DELETE", ".*", refuse(403))
    with pytest.raises(RefusedError):
        client.delete_file(file_id)


def test_a_file_that_is_gone_is_missing(client: BatchClient, tmp_path: Path) -> None:
    with pytest.raises(MissingError):
        client.download("file-0", tmp_path / "x")


def test_nobody_at_the_address_is_unreachable(impatient: None, upload: Path) -> None:
    with BatchClient("http://127.0.0.1:9/v1") as client, pytest.raises(UnreachableError) as raised:
        client.upload(upload, "x")
    assert "http://127.0.0.1:9/v1" in raised.value.message and "base_url" in raised.value.hint


def test_a_proxy_is_not_asked_for_this_machine(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with BatchClient(provider.url) as client:
        assert list(client.batches()) == []
    with BatchClient("http://provider.example/v1") as client, pytest.raises(UnreachableError, match="refused"):
        client.file("file-1")


def test_a_lost_connection_revives_the_server(client: BatchClient, provider: Provider) -> None:
    """The local engine may come back at another port."""
    revived = []
    client.base_url = "http://127.0.0.1:9/v1"

    def revive() -> None:
        revived.append(client.base_url)
        client.base_url = provider.url

    client.revive = revive
    assert list(client.batches()) == []
    assert revived == ["http://127.0.0.1:9/v1"]


def test_embeddings_come_in_the_order_of_the_texts(client: BatchClient, provider: Provider) -> None:
    found = client.embed(["b", "a", "ü"], "tiny", dimensions=4)
    assert found.dtype == np.float32 and found.shape == (3, 4)
    assert np.array_equal(found, [vector("b"), vector("a"), vector("ü")])
    assert orjson.loads(provider.requests[0].body)["dimensions"] == 4


def _data(*items: object) -> Script:
    return say(orjson.dumps({"data": list(items)}))


@pytest.mark.parametrize(
    "answer",
    [
        say(b"[]"),
        say(b'{"data": null}'),
        _data({"index": 0, "embedding": [1.0, 2.0]}),
        _data({"index": 0, "embedding": [1.0, 2.0]}, {"index": 2, "embedding": [1.0, 2.0]}),
        _data({"index": 0, "embedding": [1.0, 2.0]}, {"index": 0, "embedding": [1.0, 2.0]}),
        _data({"index": 0, "embedding": [1.0, 2.0]}, {"index": 1, "embedding": [1.0]}),
        _data({"index": 0, "embedding": None}, {"index": 1, "embedding": None}),
        _data({"index": 0, "embedding": [1.0, None]}, {"index": 1, "embedding": [1.0, 2.0]}),
        _data({"index": 0, "embedding": "AAAA"}, {"index": 1, "embedding": "AAAA"}),
        _data({"index": 0, "embedding": "~~"}, {"index": 1, "embedding": "~~"}),
        _data({"index": 0, "embedding": {}}, {"index": 1, "embedding": {}}),
        say(b'{"data": [{"index": 0, "embedding": [1%s]}, {"index": 1, "embedding": [1]}]}' % (b"0" * 400)),
    ],
)
def test_embeddings_that_make_no_sense(client: BatchClient, provider: Provider, answer: Script) -> None:
    provider.script("POST", "/embeddings", answer)
    with pytest.raises(ProviderError, match="something else than embeddings"):
        client.embed(["a", "b"], "tiny")


def test_embeddings_that_are_no_json_are_asked_for_again(client: BatchClient, provider: Provider) -> None:
    """A gateway may answer 200 with a page of its own."""
    provider.script("POST", "/embeddings", say(b"<html>hello</html>"))
    assert client.embed(["a"], "tiny").tolist() == [vector("a").tolist()]
    provider.script("POST", "/embeddings", *[say(b"garbage")] * 6)
    with pytest.raises(UnreachableError, match="something else than JSON"):
        client.embed(["a"], "tiny")


def test_embeddings_of_other_dimensions_than_asked_are_refused(client: BatchClient) -> None:
    with pytest.raises(ProviderError, match="4 numbers"):
        client.embed(["a"], "tiny", dimensions=3)


def test_embeddings_as_floats(client: BatchClient, provider: Provider) -> None:
    """Some servers ignore encoding_format."""
    provider.script("POST", "/embeddings", _data({"index": 0, "embedding": [0.5, -1.5]}))
    assert client.embed(["a"], "tiny").tolist() == [[0.5, -1.5]]


@pytest.fixture
def keyed(provider: Provider) -> Iterator[BatchClient]:
    headers = {"OpenAI-Organization": "org-1", "OpenAI-Project": "proj-1"}
    with BatchClient(provider.url, SecretStr(KEY), headers) as client:
        yield client


def test_every_request_carries_key_organisation_and_project(
    keyed: BatchClient, provider: Provider, upload: Path, tmp_path: Path
) -> None:
    provider.hold = True
    file = keyed.upload(upload, "shard.jsonl")
    keyed.create_batch(file.id, {})
    list(keyed.batches())
    keyed.download(file.id, tmp_path / "x")
    keyed.embed(["a"], "tiny")
    sent = {
        (one.headers["authorization"], one.headers["openai-organization"], one.headers["openai-project"])
        for one in provider.requests
    }
    assert sent == {(f"Bearer {KEY}", "org-1", "proj-1")}


def test_without_a_key_none_is_sent(client: BatchClient, provider: Provider) -> None:
    list(client.batches())
    assert "authorization" not in provider.requests[0].headers


def _fails(call: Callable[[], object]) -> str:
    with pytest.raises(EmbedfillError) as raised:
        call()
    return f"{raised.value!r} {raised.value.as_dict()} {raised.value.__cause__!r}"


def test_the_key_is_never_shown(
    keyed: BatchClient, provider: Provider, upload: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    echo = f"Incorrect API key provided: {KEY}. You can find your key in your account."
    provider.script("GET", "/batches", refuse(401, "invalid_api_key", echo))
    provider.script("POST", "/batches", say(f"<html>who is {KEY}?</html>".encode(), 403))
    provider.script("POST", "/files", *[drop] * 6)
    shown = [
        repr(keyed),
        _fails(lambda: list(keyed.batches())),
        _fails(lambda: keyed.create_batch("file-1", {})),
        _fails(lambda: keyed.upload(upload, "x")),
        _fails(lambda: keyed.download("file-0", tmp_path / "x")),
    ]
    assert "Incorrect API key provided" in shown[1]
    assert KEY not in "".join(shown) and KEY not in caplog.text


@pytest.mark.parametrize("key", [f"{KEY}\nsecond line", f"{KEY} “quoted”", f"{KEY}\0"])
def test_a_key_that_no_header_can_carry_is_refused_unseen(key: str) -> None:
    with pytest.raises(ConfigError) as raised:
        BatchClient("http://127.0.0.1:9/v1", SecretStr(key))
    assert KEY not in f"{raised.value!r} {raised.value.as_dict()} {vars(raised.value)}"


def test_a_header_that_no_request_can_carry_is_refused() -> None:
    with pytest.raises(ConfigError, match="OpenAI-Project"):
        BatchClient("http://127.0.0.1:9/v1", None, {"OpenAI-Project": "one\ntwo"})


def test_big_files_go_both_ways_in_little_memory(engine: EngineProcess, tmp_path: Path) -> None:
    path, copy = tmp_path / "big.jsonl", tmp_path / "copy"
    line = orjson.dumps({"filler": "x" * 1000}) + b"\n"
    with path.open("wb") as file:
        for _ in range(50 * MB // len(line)):
            file.write(line)
    with BatchClient(engine.url) as client:
        client.batch("warm")
        tracemalloc.start()
        try:
            uploaded = client.upload(path, "big.jsonl")
            client.download(uploaded.id, copy)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        client.delete_file(uploaded.id)
    assert uploaded.bytes == path.stat().st_size > 49 * MB
    assert copy.read_bytes() == path.read_bytes()
    assert peak < 8 * MB


def test_what_a_url_holds_besides_its_place_is_never_shown(provider: Provider, tmp_path: Path) -> None:
    """User info and a query, in every error and in the client's own name."""
    secret = provider.url.replace("http://", "http://u:sk-REAL@")
    provider.script("GET", "/batches/.*", *[say(b"<html>") for _ in range(6)])
    provider.script("GET", "/files/.*", refuse(400, "bad", f"no {secret}?key=sk-REAL: it is sk-REAL"))
    with BatchClient(secret, clock=Clock(sleep=lambda _: None)) as client:
        told = [repr(client)]
        for call in (lambda: client.batch("b"), lambda: client.file("f"), lambda: client.embed(["a"], "m", 99)):
            with pytest.raises(EmbedfillError) as raised:
                call()
            told.append(str(raised.value))
    with BatchClient("http://u:sk-REAL@127.0.0.1:9/v1?key=sk-REAL", clock=Clock(sleep=lambda _: None)) as client:
        with pytest.raises(UnreachableError) as raised:
            client.once("GET", "/models")
        told.append(str(raised.value))
    assert len(told) == 5 and not any("REAL" in one for one in told)
