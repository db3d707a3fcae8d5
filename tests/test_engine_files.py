"""Uploads that are whole or not there, and downloads that can be resumed."""

import os
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from embedfill.engine.http.form import Form
from embedfill.engine.state.database import Database
from embedfill.engine.state.files import Files, new_file
from embedfill.engine.state.purposes import expiry
from embedfill.errors import RefusedError
from tests.engine_fixtures import EngineProcess, jsonl, request_line, until

DATA = jsonl(request_line(f"r{n}", f"text {n}") for n in range(200))


@pytest.fixture(scope="module")
def content(engine: EngineProcess) -> str:
    return engine.url + f"/files/{engine.upload(DATA).raise_for_status().json()['id']}/content"


def test_the_whole_file(content: str) -> None:
    response = httpx.get(content, headers={"Accept-Encoding": "identity"})
    assert response.content == DATA
    assert response.headers["content-length"] == str(len(DATA))
    assert response.headers["accept-ranges"] == "bytes"
    assert response.headers["etag"].startswith('"')  # strong
    assert httpx.get(content).headers["etag"] == response.headers["etag"]


@pytest.mark.parametrize(
    ("asked", "start", "stop"), [("0-0", 0, 1), ("100-199", 100, 200), ("500-", 500, None), ("-7", -7, None)]
)
def test_a_range(content: str, asked: str, start: int, stop: int | None) -> None:
    response = httpx.get(content, headers={"Range": f"bytes={asked}"})
    part = DATA[start:stop]
    assert (response.status_code, response.content) == (206, part)
    at = start % len(DATA)
    assert response.headers["content-range"] == f"bytes {at}-{at + len(part) - 1}/{len(DATA)}"
    assert response.headers["content-length"] == str(len(part))


def test_if_range(content: str) -> None:
    etag = httpx.get(content).headers["etag"]
    same = httpx.get(content, headers={"Range": "bytes=10-", "If-Range": etag})
    assert (same.status_code, same.content) == (206, DATA[10:])
    for other in ('"another"', f"W/{etag}"):
        whole = httpx.get(content, headers={"Range": "bytes=10-", "If-Range": other})
        assert (whole.status_code, whole.content) == (200, DATA)


def test_several_ranges(content: str) -> None:
    response = httpx.get(content, headers={"Range": f"bytes=0-4,10-19,{len(DATA)}-"})
    assert response.status_code == 206
    assert int(response.headers["content-length"]) == len(response.content)
    edge = response.headers["content-type"].removeprefix("multipart/byteranges; boundary=").encode()
    parts = response.content.split(b"--" + edge)[1:-1]
    assert [part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for part in parts] == [DATA[:5], DATA[10:20]]


def test_a_range_of_no_sense_is_none(content: str) -> None:
    for header in ("lines=1-2", "bytes=9-3", "bytes=x"):
        assert httpx.get(content, headers={"Range": header}).content == DATA


def test_the_head_says_what_a_download_would(content: str) -> None:
    response = httpx.head(content)
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-length"] == str(len(DATA))
    assert response.headers["etag"] == httpx.get(content).headers["etag"]
    assert httpx.head(content.removesuffix("/content")).status_code == 200


def test_who_has_it_already_need_not_have_it_again(content: str) -> None:
    etag = httpx.get(content).headers["etag"]
    for known in (etag, f'"x", W/{etag}', "*"):
        response = httpx.get(content, headers={"If-None-Match": known})
        assert (response.status_code, response.content, response.headers["etag"]) == (304, b"", etag)
    assert httpx.get(content, headers={"If-None-Match": '"x"'}).content == DATA


def test_a_file_that_lost_its_bytes_says_so(engine: EngineProcess) -> None:
    file_id = engine.upload(DATA).raise_for_status().json()["id"]
    (engine.data / "files" / file_id).unlink()
    response = engine.get(f"/files/{file_id}/content")
    assert (response.status_code, response.json()["error"]["code"]) == (500, "file_bytes_missing")
    assert file_id in response.json()["error"]["message"]
    assert engine.http.delete(f"{engine.url}/files/{file_id}").json()["deleted"]


@pytest.mark.parametrize(
    ("name", "kept", "said"),
    [
        ("../../etc/passwd", "passwd", 'filename="passwd"'),
        ("C:\\temp\\a.jsonl", "a.jsonl", 'filename="a.jsonl"'),
        ('a"; x="b', 'a"; x="b', "filename*=utf-8''a%22%3B%20x%3D%22b"),
        ("a\r\nSet-Cookie: b", "aSet-Cookie: b", "filename*=utf-8''aSet-Cookie%3A%20b"),
        ("Übung 日本.jsonl", "Übung 日本.jsonl", "filename*=utf-8''%C3%9Cbung%20%E6%97%A5%E6%9C%AC.jsonl"),
        ("..", "upload", 'filename="upload"'),
    ],
)
def test_a_name_is_safe_to_save_under(engine: EngineProcess, name: str, kept: str, said: str) -> None:
    file = engine.post("/files", data={"purpose": "user_data"}, files={"file": (name, b"x")}).json()
    assert file["filename"] == kept
    response = engine.get(f"/files/{file['id']}/content")
    assert response.headers["content-disposition"] == f"attachment; {said}"
    assert "set-cookie" not in response.headers


@pytest.mark.parametrize(
    ("named", "kept"),
    [
        (b"filename*=UTF-8''%C3%9Cbung.jsonl", "Übung.jsonl"),
        (b"filename*=utf-8'de'a%2F..%2Fb", "b"),
        (b"filename*=latin-1''%DC", "upload"),
        (b"filename=\"a.jsonl\"; filename*=UTF-8''b.jsonl", "a.jsonl"),
    ],
)
def test_a_name_in_the_form_of_other_headers(engine: EngineProcess, named: bytes, kept: str) -> None:
    assert _named(engine, named).json()["filename"] == kept


def test_a_name_that_is_no_utf8_is_refused_in_plain_words(engine: EngineProcess) -> None:
    response = _named(engine, b'filename="\xdcbung.jsonl"')
    assert response.status_code == 400
    assert response.json()["error"]["message"] == "The multipart body is malformed: Segment header failed to decode."


def _named(engine: EngineProcess, named: bytes) -> httpx.Response:
    fields = {b'name="purpose"': b"user_data", b'name="file"; ' + named: b"x"}
    parts = [b"--b\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n" % field for field in fields.items()]
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    return engine.post("/files", content=b"".join(parts) + b"--b--\r\n", headers=headers)


def test_a_name_is_not_endless(engine: EngineProcess) -> None:
    for length in (256, 5000):
        assert (
            engine.post("/files", data={"purpose": "user_data"}, files={"file": ("x" * length, b"x")}).status_code
            == 400
        )
    assert os.listdir(engine.data / "parts") == []


def test_a_listing_can_be_filtered_and_turned(engine: EngineProcess) -> None:
    made = [engine.upload(b"x", purpose="vision").json()["id"] for _ in range(5)]
    query: dict[str, str | int] = {"purpose": "vision", "limit": 2, "order": "asc"}
    first = engine.get("/files", params=query).json()
    assert ([file["id"] for file in first["data"]], first["has_more"]) == (made[:2], True)
    rest = engine.get("/files", params={**query, "after": made[1], "limit": 3}).json()
    assert ([file["id"] for file in rest["data"]], rest["has_more"]) == (made[2:], False)
    assert [file["id"] for file in engine.get("/files", params={"purpose": "vision"}).json()["data"]] == made[::-1]
    assert engine.get("/files", params={"after": "file-unknown"}).json()["data"] == []
    for bad in ({"limit": "0"}, {"limit": "10001"}, {"limit": "9" * 5000}, {"order": "up"}):
        assert engine.get("/files", params=bad).status_code == 400


def test_a_range_past_the_end(content: str) -> None:
    response = httpx.get(content, headers={"Range": f"bytes={len(DATA)}-"})
    assert response.status_code == 416
    assert response.headers["content-range"] == f"bytes */{len(DATA)}"
    assert response.json()["error"].keys() == {"message", "type", "param", "code"}


def test_a_download_outlives_its_file(engine: EngineProcess) -> None:
    data = DATA * 300
    file_id = engine.upload(data).raise_for_status().json()["id"]
    with engine.http.stream("GET", f"{engine.url}/files/{file_id}/content") as response:
        parts = response.iter_raw()
        begun = next(parts)
        assert httpx.delete(f"{engine.url}/files/{file_id}").json() == {
            "id": file_id,
            "object": "file",
            "deleted": True,
        }
        assert begun + b"".join(parts) == data
    assert engine.get(f"/files/{file_id}/content").status_code == 404


@pytest.mark.parametrize(
    ("data", "code"),
    [(b"", "empty_file"), (b"\n \n", "empty_file"), (b"no json\n", "invalid_file_format")],
)
def test_a_bad_batch_file_is_refused_at_upload(engine: EngineProcess, data: bytes, code: str) -> None:
    response = engine.upload(data)
    assert (response.status_code, response.json()["error"]["code"]) == (400, code)
    assert list((engine.data / "parts").iterdir()) == []


def test_a_bad_later_line_passes(engine: EngineProcess) -> None:
    assert engine.upload(b'{"a": 1}\nno json\n').status_code == 200
    assert engine.upload(b"any bytes", purpose="user_data").status_code == 200


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"purpose": "holiday"}, "purpose"),
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "10"}, "expires_after.seconds"),
        ({"expires_after[anchor]": "now", "expires_after[seconds]": "3600"}, "expires_after.anchor"),
        ({"expires_after": "{"}, "expires_after"),
        ({"expires_after": "[" * 5000}, "expires_after"),
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "9" * 5000}, "expires_after.seconds"),
    ],
)
def test_bad_fields_are_refused(engine: EngineProcess, fields: dict[str, str], param: str) -> None:
    response = engine.upload(DATA, **fields)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_fields_may_come_as_json_and_after_the_file(engine: EngineProcess) -> None:
    body = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="x.jsonl"\r\n\r\n{}\r\n'
        b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        b'--b\r\nContent-Disposition: form-data; name="expires_after"\r\n\r\n'
        b'{"anchor": "created_at", "seconds": 7200}\r\n--b--\r\n'
    )
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    file = engine.post("/files", content=body, headers=headers).raise_for_status().json()
    assert (file["filename"], file["expires_at"] - file["created_at"]) == ("x.jsonl", 7200)
    cut = engine.post("/files", content=body[:-10], headers=headers)
    assert (cut.status_code, cut.json()["error"]["code"]) == (400, "invalid_multipart")
    plain = engine.post("/files", content=b"x", headers={"Content-Type": "text/plain"})
    assert (plain.status_code, plain.json()["error"]["code"]) == (400, "invalid_content_type")


def test_a_body_has_bounds_besides_its_file(engine: EngineProcess) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    field = b'--b\r\nContent-Disposition: form-data; name="x%d"\r\n\r\n%s\r\n'
    for body in (
        b"".join(field % (n, b"") for n in range(40)),
        field % (0, b"y" * 70_000),
        b"preamble" * 500_000,
        field % (0, b"") + b"--b--\r\n" + b"epilogue" * 500_000,
        b"--b\r\n" + b"x: y\r\n" * 20,
        b"--b\r\n" + b"x" * 10_000,
    ):
        response = engine.post("/files", content=body, headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_multipart")
    assert os.listdir(engine.data / "parts") == []


def _begin_upload(url: str) -> socket.socket:
    """Sends the head and the first part of an upload that is announced as longer."""
    place = urlsplit(url)
    assert place.hostname and place.port
    connection = socket.create_connection((place.hostname, place.port))
    body = (
        b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="x.jsonl"\r\n\r\n' + DATA * 200
    )
    head = (
        "POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        f"Content-Length: {len(body) * 2}\r\n\r\n"
    )
    connection.sendall(head.encode() + body)
    return connection


def _part_bytes(data: Path) -> int:
    return sum(path.stat().st_size for path in (data / "parts").iterdir())


def test_an_upload_that_breaks_off_leaves_nothing(new_engine: Callable[..., EngineProcess]) -> None:
    engine = new_engine().start()
    with _begin_upload(engine.url):
        until(lambda: _part_bytes(engine.data), bool)
    until(lambda: list((engine.data / "parts").iterdir()), lambda parts: not parts)
    assert list((engine.data / "files").iterdir()) == []
    assert engine.get("/files").json()["data"] == []


def test_an_upload_that_is_killed_leaves_nothing(new_engine: Callable[..., EngineProcess]) -> None:
    engine = new_engine().start()
    kept = engine.upload(DATA).raise_for_status().json()["id"]
    (engine.data / "files" / "file-without-a-row").write_bytes(b"renamed, then killed")
    with _begin_upload(engine.url):
        until(lambda: _part_bytes(engine.data), bool)
        engine.kill()
    assert _part_bytes(engine.data) > 0
    engine.start()
    assert list((engine.data / "parts").iterdir()) == []
    assert [path.name for path in (engine.data / "files").iterdir()] == [kept]


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    database = Database(tmp_path / "engine.db")
    yield Files(tmp_path, database)
    database.close()


def test_the_size_limit_holds_while_bytes_arrive(files: Files) -> None:
    form = Form("multipart/form-data; boundary=b", "file", files.new_part(), lambda fields: 1000)
    form.feed(b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n' + b"x" * 1000)
    with pytest.raises(RefusedError, match="too large") as refused:
        form.feed(b"x" * 10 + b"\r\n")
    form.close()
    assert refused.value.status == 400
    assert list((files.new_part().parent).iterdir()) == []


def test_expired_files_are_gone(files: Files, tmp_path: Path) -> None:
    part = files.new_part()
    part.write_bytes(b"x")
    file = files.adopt(part, new_file(1, "x", "batch", 3600), "")
    assert [found["id"] for found in files.page(None, None, 10, "").data] == [file.id]
    with sqlite3.connect(tmp_path / "engine.db") as connection:
        connection.execute("UPDATE files SET expires_at = ?", (int(time.time()) - 1,))
    connection.close()
    assert files.page(None, None, 10, "").data == []
    with pytest.raises(RefusedError):
        files.get(file.id, "")
    files.sweep()
    assert not files.path(file.id).exists()
    assert os.listdir(tmp_path / "files") == []


def test_expiry_of_nothing_is_the_default() -> None:
    assert expiry({}) is None
    assert expiry({"expires_after": {"anchor": "created_at", "seconds": 3600}}) == 3600
