"""The store in a bucket keeps the contract on a real S3 server, and says clearly what is wrong with one."""

import os
import pickle
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest

from embedfill.errors import StoreError
from embedfill.store import cloud
from embedfill.store.cloud import CloudStore
from tests.s3_fixtures import S3
from tests.store_contract import SharedStoreContract


class TestCloudStore(SharedStoreContract):
    @pytest.fixture
    def store(self, s3_server: S3) -> CloudStore:
        return CloudStore(s3_server.url)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloud, "_RETRIES", {"max_retries": 0})


def test_stores_of_two_prefixes_do_not_see_each_other(s3_server: S3) -> None:
    one, other = CloudStore(s3_server.url), CloudStore(s3_server.url + "-other/")
    one.create("k", b"1")
    assert list(other.list("")) == []
    assert other.create("k", b"2")
    assert one.read("k") == b"1"


def test_a_bucket_without_prefix_is_a_store_too(s3_server: S3) -> None:
    store = CloudStore("s3://" + s3_server.url.split("/")[2])
    assert store.create("a/b", b"1")
    assert [entry.key for entry in store.list("")] == ["a/b"]


def test_fetches_in_pieces(s3_server: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloud, "_PIECE_BYTES", 1000)
    store = CloudStore(s3_server.url)
    for size in (0, 999, 1000, 1001, 3000, 3001):
        data = os.urandom(size)
        store.create(f"k{size}", data)
        store.fetch(f"k{size}", tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == data


def test_no_secret_is_shown_or_pickled(s3_server: S3) -> None:
    store = CloudStore(s3_server.url)
    shown = repr(store) + str(vars(store)) + pickle.dumps(store).decode("latin-1")
    assert repr(store) == f"CloudStore({s3_server.url!r})"
    assert "AKIA" not in shown
    assert "a-secret" not in shown


def test_a_bucket_that_is_not_there_is_named(s3_server: S3, tmp_path: Path) -> None:
    store = CloudStore("s3://no-such-bucket/x")
    (tmp_path / "f").write_bytes(b"")
    for call in (
        lambda: store.read("k"),
        lambda: store.create("k", b""),
        lambda: list(store.list("")),
        lambda: store.fetch("k", tmp_path / "copy"),
        lambda: store.put_file("k", tmp_path / "f"),
    ):
        with pytest.raises(StoreError, match=r"no-such-bucket.*there is no such bucket") as raised:
            call()
        assert raised.value.code == "store"


def test_refused_credentials_are_named_and_not_repeated(s3_server: S3) -> None:
    store = CloudStore(s3_server.url)
    httpx.post(f"{s3_server.endpoint}/moto-api/reset-auth", content=b"0").raise_for_status()
    try:
        with pytest.raises(StoreError, match="credentials are missing, or not accepted") as raised:
            store.read("k")
    finally:
        httpx.post(f"{s3_server.endpoint}/moto-api/reset-auth", content=b"inf").raise_for_status()
    assert "AWS_ACCESS_KEY_ID" in raised.value.hint
    assert "AKIA" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_a_server_that_does_not_answer_is_named(
    s3_server: S3, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(StoreError, match="no answer") as raised:
        CloudStore(s3_server.url).read("k")
    assert "AWS_ENDPOINT_URL" in raised.value.hint


def test_http_must_be_allowed(s3_server: S3, impatient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    with pytest.raises(StoreError, match="http, not https") as raised:
        CloudStore(s3_server.url).read("k")
    assert "AWS_ALLOW_HTTP=true" in raised.value.hint


def test_missing_credentials_are_named(s3_server: S3, impatient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(StoreError, match="credentials are missing"):
        CloudStore(s3_server.url).read("k")


class _Answers(BaseHTTPRequestHandler):
    """Refuses everything with the status that the class is given."""

    status, body = 500, ""

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body.encode())

    do_GET = do_PUT = do_HEAD = do_POST = _answer  # noqa: N815 - http.server's names

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (403, "<Error><Code>AccessDenied</Code><AWSAccessKeyId>AKIAX</AWSAccessKeyId></Error>", "permission denied"),
        (403, "<Error><Code>SignatureDoesNotMatch</Code><StringToSign>AKIAX</StringToSign></Error>", "credentials"),
        (301, "<Error><Code>PermanentRedirect</Code></Error>", "another region"),
        (503, "<Error><Code>SlowDown</Code></Error>", "overloaded or failing"),
        (400, "<Error><Code>KeyTooLongError</Code><Resource>AKIAX</Resource></Error>", "KeyTooLongError"),
    ],
)
def test_what_a_service_refuses_is_told_without_its_secrets(
    s3_server: S3, impatient: None, monkeypatch: pytest.MonkeyPatch, status: int, body: str, words: str
) -> None:
    handler = type("Handler", (_Answers,), {"status": status, "body": body})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
            with pytest.raises(StoreError, match=words) as raised:
                CloudStore(s3_server.url).create("k", b"data")
        finally:
            server.shutdown()
            thread.join()
    assert "AKIAX" not in str(raised.value)
