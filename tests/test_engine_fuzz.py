"""Whatever is sent, the engine answers it, or waits for the rest: no 5xx, no hang, and nothing left behind.

One engine takes it all. FUZZ_CASES says how many cases there are in all; without it, some hundreds:

    FUZZ_CASES=10000 pytest tests/test_engine_fuzz.py
"""

import json
import os
import re
import socket
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine_fixtures import STATIC, EngineProcess, batch_body

CASES = int(os.environ.get("FUZZ_CASES", "600"))
_ANSWER_S = 30.0
_PERHAPS_S = 0.05  # for what may be the half of a request: it is right to wait for the rest
END = b"\r\n\r\n"


def share(part: float) -> settings:
    return settings(max_examples=max(int(CASES * part), 5))


@dataclass(frozen=True)
class Answer:
    status: int
    head: str
    body: bytes

    def header(self, name: str) -> str:
        found = re.search(rf"(?im)^{name}: *(.*?)\r?$", self.head)
        return found[1] if found else ""

    @property
    def error(self) -> dict[str, Any]:
        return dict(json.loads(self.body)["error"])


def exchange(engine: EngineProcess, sent: bytes, whole: bool = True) -> Answer | None:
    """What comes back; None where nothing does, which only half a request may cause. Every error is an envelope."""
    place = urlsplit(engine.url)
    assert place.hostname and place.port
    found = b""
    with closing(socket.create_connection((place.hostname, place.port), timeout=_ANSWER_S)) as connection:
        with suppress(ConnectionError):  # it may have been answered and closed before it was sent
            connection.sendall(sent)
        connection.settimeout(_ANSWER_S if whole else _PERHAPS_S)
        with suppress(*(() if whole else (TimeoutError,)), ConnectionResetError):
            while data := connection.recv(1 << 20):
                found += data
    if not found:
        assert not whole, f"no answer to {sent[:2000]!r}"
        return None
    head, _, body = found.partition(END)
    while head.startswith(b"HTTP/1.1 100"):
        head, _, body = body.partition(END)
    if not head:
        return None
    answer = Answer(int(head.split()[1]), head.decode("latin-1"), body)
    assert answer.status < 500, (sent[:2000], found[:2000])
    if answer.status >= 400 and whole and not sent.startswith(b"HEAD"):
        assert answer.error.keys() == {"message", "type", "param", "code"}
    return answer


def ask(engine: EngineProcess, method: str, path: str, body: bytes = b"", *headers: bytes) -> Answer:
    lines = [f"{method} {path} HTTP/1.1".encode(), b"Host: localhost", b"Connection: close", *headers]
    lines += [b"Content-Length: %d" % len(body)] if body or method == "POST" else []
    answer = exchange(engine, b"\r\n".join(lines) + END + body)
    assert answer is not None
    return answer


@pytest.fixture(scope="module")
def target(engine: EngineProcess) -> Iterator[EngineProcess]:
    """The shared engine; afterwards it lives, and holds what it says that it holds, and nothing else."""
    yield engine
    assert engine.get("/../healthz").status_code == 200
    assert engine.process is not None and engine.process.poll() is None
    assert os.listdir(engine.data / "parts") == []
    listed = engine.get("/files").raise_for_status().json()
    assert not listed["has_more"]
    assert {file["id"] for file in listed["data"]} == set(os.listdir(engine.data / "files"))


@pytest.fixture(scope="module")
def upload(target: EngineProcess) -> Iterator[str]:
    """The id of an upload that takes parts, and has none of them any more when it has ended."""
    body = {"filename": "x", "purpose": "user_data", "bytes": 100, "mime_type": "text/plain"}
    before = set(os.listdir(target.data / "uploads"))
    upload_id = str(target.post("/uploads", json=body).raise_for_status().json()["id"])
    target.post(f"/uploads/{upload_id}/parts", files={"data": b"x"}).raise_for_status()
    yield upload_id
    assert set(os.listdir(target.data / "uploads")) > before
    assert target.post(f"/uploads/{upload_id}/cancel").json()["status"] == "cancelled"
    assert set(os.listdir(target.data / "uploads")) == before


# multipart

TEXT = st.text(max_size=30)
NAMES = st.sampled_from(["file", "data", "purpose", "expires_after", "expires_after[seconds]", "x"]) | TEXT
PURPOSES = st.sampled_from(["batch", "user_data", "vision", "holiday", ""])
VALUES = (
    PURPOSES.map(str.encode)
    | st.binary(max_size=60)
    | st.sampled_from([b"9" * 5000, b'{"anchor": "created_at", "seconds": 4000}', b'{"custom_id": 1}\n', b"3600"])
)
PIECES = st.sampled_from(
    [
        b"--b",
        b"--b--",
        b"\r\n",
        b"\n",
        b"\r",
        b"--",
        END,
        b'Content-Disposition: form-data; name="file"; filename="x"',
        b'Content-Disposition: form-data; name="purpose"',
        b"user_data",
        b"batch",
        b"Content-Length: 3",
        b"Content-Type: a/b",
        b"Content-Disposition: form-data",
        b"name*=utf-8''file",
        b"\0",
        b"x" * 5000,
        b"{}\n",
    ]
) | st.binary(max_size=20)
TYPES = st.sampled_from(
    [
        b"multipart/form-data; boundary=b",
        b'multipart/form-data; boundary="b"',
        b"multipart/form-data; boundary=",
        b"text/plain",
        b"multipart/form-data; boundary=" + b"b" * 300,
        b"multipart/form-data",
        b"multipart/mixed; boundary=b",
        b"\xff\xfe",
    ]
)


def _quoted(name: str) -> bytes:
    return name.encode().replace(b'"', b"%22").replace(b"\r", b"%0D").replace(b"\n", b"%0A")


NUMBERS = st.integers(-10, 10**7).map(str) | st.sampled_from(
    ["1", "20", "9" * 5000, "²", "+1", "1e4", "-0", "", "0x1f", "1_000"]
)
USUAL = st.tuples(
    PURPOSES.map(lambda value: ("purpose", value.encode())),
    st.just(("expires_after[anchor]", b"created_at")),
    NUMBERS.map(lambda value: ("expires_after[seconds]", value.encode())),
    st.sampled_from(["file", "data"]).flatmap(lambda name: VALUES.map(lambda value: (name, value))),
)


@st.composite
def forms(draw: st.DrawFn) -> bytes:
    """A body as a client writes it; now and then with something wrong in it."""
    body = b""
    for name, value in draw(st.one_of(USUAL, USUAL, st.lists(st.tuples(NAMES, VALUES), max_size=6))):
        filename = b'; filename="%s"' % _quoted(draw(TEXT)) if name in ("file", "data") else b""
        body += b'--b\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n' % (_quoted(name), filename, value)
    body += b"--b--\r\n"
    if not draw(st.integers(0, 2)):
        at = draw(st.integers(0, len(body)))
        body = body[:at] + draw(PIECES) + body[at + draw(st.integers(0, 20)) :]
    return body


@share(0.2)
@given(
    body=forms() | st.lists(PIECES, max_size=20).map(b"".join), kind=TYPES, well=st.integers(0, 3), part=st.booleans()
)  # fmt: skip
def test_multipart_bodies(target: EngineProcess, upload: str, body: bytes, kind: bytes, well: int, part: bool) -> None:
    header = b"Content-Type: " + (b"multipart/form-data; boundary=b" if well else kind)
    answer = ask(target, "POST", f"/v1/uploads/{upload}/parts" if part else "/v1/files", body, header)
    assert os.listdir(target.data / "parts") == []
    if answer.status == 200 and not part:
        file = json.loads(answer.body)
        assert (target.data / "files" / file["id"]).stat().st_size == file["bytes"]


@share(0.05)
@given(
    name=TEXT
    | st.sampled_from(['"', "../../x", "a\\b", "x\r\nSet-Cookie: a", "é", "x" * 300, "", "..", "a;b", "%22", "日本"])
)
def test_names_of_files(target: EngineProcess, name: str) -> None:
    form = b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n--b\r\nContent-Disposition: form-data; '
    form += b'name="file"; filename="%s"\r\n\r\nabc\r\n--b--\r\n' % _quoted(name)
    answer = ask(target, "POST", "/files", form, b"Content-Type: multipart/form-data; boundary=b")
    if answer.status != 200:
        assert len(name) > 255 or "\\" in name, name
        return
    file = json.loads(answer.body)
    assert "/" not in file["filename"] and not re.search(r"[\x00-\x1f]", file["filename"])
    content = ask(target, "GET", f"/files/{file['id']}/content")
    assert content.body == b"abc" and not content.header("set-cookie")
    assert re.fullmatch(
        r"attachment; filename(=\"[\w.~-]+\"|\*=utf-8''[\w.~%-]+)", content.header("content-disposition")
    )


# requests

ROUTES = [
    "/v1/files", "/v1/files/file-x", "/v1/files/file-x/content", "/v1/uploads", "/v1/uploads/upload_x/parts",
    "/v1/uploads/upload_x/complete", "/v1/uploads/upload_x/cancel", "/v1/batches", "/v1/batches/batch_x",
    "/v1/batches/batch_x/cancel", "/v1/embeddings", "/v1/models", "/v1/models/x", "/v1/chat/completions",
    "/v1/completions", "/v1/responses", "/v1/moderations", "/healthz", "/readyz", "/metrics", "/", "/v1", "/v1/",
]  # fmt: skip
PATHS = st.sampled_from([*ROUTES, *(route.removeprefix("/v1") or "/" for route in ROUTES)])
METHODS = st.sampled_from(["GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS"])
HEADER_NAMES = st.sampled_from(
    [
        b"Host",
        b"Authorization",
        b"Idempotency-Key",
        b"Range",
        b"If-Range",
        b"If-None-Match",
        b"Accept",
        b"Content-Type",
        b"Cookie",
        b"Upgrade",
        b"Connection",
        b"X-Forwarded-For",
        b"Accept-Encoding",
        b"Origin",
        b"Traceparent",
    ]
) | st.text("abcdefghijklmnopqrstuvwxyz-_", min_size=1, max_size=20).map(str.encode).filter(
    lambda name: name not in (b"content-length", b"transfer-encoding", b"expect")
)
HEADER_VALUES = st.sampled_from(
    [
        b"upgrade, close",
        b"h2c",
        b"websocket",
        b"*",
        b"[",
        b"[::1",
        b"a:b:c",
        b"Bearer",
        b"Bearer \xff",
        b"x" * 9000,
        b"",
    ]
) | st.binary(max_size=40).map(lambda value: bytes(byte for byte in value if byte not in b"\r\n\0"))


@share(0.1)
@given(method=METHODS, path=PATHS, headers=st.lists(st.tuples(HEADER_NAMES, HEADER_VALUES), max_size=12))
def test_headers(target: EngineProcess, method: str, path: str, headers: list[tuple[bytes, bytes]]) -> None:
    ask(target, method, path, b"", *(name + b": " + value for name, value in headers))


HEADS = st.lists(
    st.sampled_from(
        [
            b"GET",
            b"POST",
            b" ",
            b"/v1/files",
            b"HTTP/1.1",
            b"HTTP/9.9",
            b"\r\n",
            b"\n",
            b"Content-Length:",
            b"-1",
            b"5",
            b"Transfer-Encoding: chunked",
            b"Expect: 100-continue",
            b"99999999999999999999",
            END,
            b"0\r\n\r\n",
            b"zz",
            b"{}",
            b"Host: x",
            b"http://",
            b"*",
            b"CONNECT",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"%",
            b"%00",
            b"\xff",
            b"?a=b",
        ]
    )
    | st.binary(max_size=10),
    max_size=16,
).map(b"".join)
STARTS = st.sampled_from([b"", b"GET /v1/files HTTP/1.1\r\n", b"POST /v1/batches HTTP/1.1\r\n", b"GET /v1/"])


@share(0.1)
@given(start=STARTS, sent=HEADS)
def test_heads_that_are_none(target: EngineProcess, start: bytes, sent: bytes) -> None:
    exchange(target, start + sent, whole=False)


IDS = st.text(max_size=40) | st.sampled_from(
    ["../../engine.db", "..", ".", "\0", "%2e%2e", "file-x" * 500, "é", "a/b", "'; --"]
)


@share(0.05)
@given(
    method=METHODS,
    path=st.sampled_from(["files", "batches", "models", "uploads"]),
    text=IDS,
    tail=st.sampled_from(["", "/content", "/cancel", "/parts", "/complete"]),
)
def test_ids(target: EngineProcess, method: str, path: str, text: str, tail: str) -> None:
    ask(target, method, f"/v1/{path}/{quote(text, safe='')}{tail}", b"{}" if method == "POST" else b"")


@share(0.1)
@given(
    path=st.sampled_from(["files", "batches"]),
    query=st.fixed_dictionaries(
        {},
        optional={
            "limit": NUMBERS,
            "after": TEXT,
            "order": st.sampled_from(["asc", "desc", "", "up"]),
            "purpose": PURPOSES | TEXT,
            "x": TEXT,
        },
    ),
)  # fmt: skip
def test_cursors_and_limits(target: EngineProcess, path: str, query: dict[str, str]) -> None:
    known = ask(target, "GET", f"/v1/{path}?limit=1")
    last = json.loads(known.body)["last_id"]
    for asked in (query, {**query, "after": last} if last else query):
        text = "&".join(f"{name}={quote(value, safe='')}" for name, value in asked.items())
        answer = ask(target, "GET", f"/v1/{path}?{text}")
        if answer.status != 200:
            assert answer.status in (400, 414)
            continue
        page = json.loads(answer.body)
        ids = [item["id"] for item in page["data"]]
        assert len(ids) <= int(asked.get("limit", "10000")) and len(set(ids)) == len(ids)
        assert (page["first_id"], page["last_id"]) == ((ids[0], ids[-1]) if ids else (None, None))


# ranges

CONTENT = bytes(range(256)) * 4
NUMBER = st.integers(0, 1100).map(str) | st.sampled_from(["", "1023", "1024", "9" * 30, "9" * 5000, "-1", "²", " 5 "])
RANGES = st.lists(st.tuples(NUMBER, NUMBER).map("-".join), min_size=1, max_size=5).map(",".join)
UNITS = st.sampled_from(["bytes=", "bytes=", "bytes=", "Bytes = ", "lines=", "bytes", ""])


@pytest.fixture(scope="module")
def content(target: EngineProcess) -> str:
    return f"/v1/files/{target.upload(CONTENT, purpose='user_data').raise_for_status().json()['id']}/content"


@share(0.15)
@given(unit=UNITS, asked=RANGES | TEXT, method=st.sampled_from(["GET", "GET", "HEAD"]))
def test_ranges(target: EngineProcess, content: str, unit: str, asked: str, method: str) -> None:
    value = (unit + asked).encode(errors="replace")
    value = bytes(byte for byte in value if byte not in b"\r\n\0")
    answer = ask(target, method, content, b"", b"Range: " + value)
    assert answer.status in (200, 206, 400, 416) and (
        answer.status != 400 or not value.isascii() or b"\x7f" in value or min(value) < 32
    )
    if method == "GET" and answer.status == 200:
        assert answer.body == CONTENT
    elif answer.status == 416:
        assert answer.header("content-range") == f"bytes */{len(CONTENT)}"
    elif method == "GET" and answer.status == 206:
        for start, stop, body in _parts(answer):
            assert body == CONTENT[start : stop + 1]
    if method == "GET" and answer.status < 300:
        assert len(answer.body) == int(answer.header("content-length"))


def _parts(answer: Answer) -> Iterator[tuple[int, int, bytes]]:
    """First byte, last byte and bytes of each range in an answer."""
    several = re.search("boundary=(.*)", answer.header("content-type"))
    if several is None:
        start, stop = _said(answer.header("content-range"))
        yield start, stop, answer.body
        return
    edge = b"--" + several[1].strip().encode()
    for part in answer.body.split(edge)[1:-1]:
        head, _, body = part.partition(END)
        start, stop = _said(head.decode())
        yield start, stop, body.removesuffix(b"\r\n")


def _said(text: str) -> tuple[int, int]:
    found = re.search(rf"bytes (\d+)-(\d+)/{len(CONTENT)}", text)
    assert found is not None, text
    return int(found[1]), int(found[2])


# JSON

SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | TEXT
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=8
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "model": st.sampled_from([STATIC, "text-embedding-3-small", "", "*"]),
    "input": TEXT | st.lists(TEXT, max_size=3) | st.lists(st.integers(-5, 40_000), max_size=5) | st.lists(st.lists(st.integers(0, 9)), max_size=2),
    "encoding_format": st.sampled_from(["float", "base64", "hex"]),
    "dimensions": st.integers(-1, 300),
    "messages": st.just([{"role": "user", "content": "x"}]),
    "stream": st.booleans(),
    "input_file_id": st.sampled_from(["file-x", "../x", "\0"]),
    "endpoint": st.sampled_from(["/v1/embeddings", "/v1/responses", "/v1/images"]),
    "completion_window": st.sampled_from(["24h", "1h", "0h", "h"]),
    "metadata": st.dictionaries(TEXT, TEXT | SCALARS, max_size=3),
    "output_expires_after": st.fixed_dictionaries({"anchor": st.just("created_at"), "seconds": st.integers(3000, 5000) | SCALARS}),
    "filename": TEXT,
    "purpose": PURPOSES,
    "bytes": st.integers(-1, 10**10),
    "mime_type": TEXT,
    "part_ids": st.lists(TEXT, max_size=3),
    "md5": TEXT,
}  # fmt: skip
BODIES = st.fixed_dictionaries({}, optional={name: known | JSON for name, known in FIELDS.items()})
DEEP = st.integers(2, 3000).map(
    lambda depth: (
        b'{"input_file_id":"x","endpoint":"/v1/embeddings","completion_window":"24h","filename":"x","purpose":"batch",'
        b'"bytes":1,"mime_type":"x","model":"wordllama-256","input":"x","x":'
        + b'{"x":' * depth
        + b"1"
        + b"}" * (depth + 1)
    )
)
RAW = st.binary(max_size=60) | DEEP | st.integers(1, 3000).map(lambda depth: b"[" * depth + b"]" * depth)
POSTED = st.sampled_from(
    [route for route in ROUTES if route not in ("/v1/files", "/v1/uploads/upload_x/parts")]
    + ["/v1/uploads/LIVE/complete"]
)


@share(0.15)
@given(path=POSTED, body=BODIES.map(orjson.dumps) | JSON.map(orjson.dumps) | RAW)
def test_json_bodies(target: EngineProcess, upload: str, path: str, body: bytes) -> None:
    ask(target, "POST", path.replace("LIVE", upload), body, b"Content-Type: application/json")


LINES = st.fixed_dictionaries(
    {},
    optional={
        "custom_id": TEXT | SCALARS,
        "method": st.just("POST") | SCALARS,
        "url": st.just("/v1/embeddings") | SCALARS,
        "body": st.fixed_dictionaries({}, optional={name: FIELDS[name] | JSON for name in ("model", "input", "dimensions")}),
        "more": JSON,
    },
)  # fmt: skip
INPUTS = TEXT | st.lists(TEXT, max_size=3) | JSON
WELL = st.builds(
    lambda n, value: {
        "custom_id": f"r{n}",
        "method": "POST",
        "url": "/v1/embeddings",
        "body": {"model": STATIC, "input": value},
    },
    st.integers(0, 10**9),
    INPUTS,
)
TEXTS = (
    LINES.map(orjson.dumps)
    | JSON.map(orjson.dumps)
    | RAW
    | st.sampled_from([b"", b" ", b"\r", b"\xef\xbb\xbf{}", b"null"])
)


@share(0.1)
@given(
    lines=st.lists(WELL.map(orjson.dumps), min_size=1, max_size=8),
    odd=st.lists(TEXTS, max_size=2),
    last=st.sampled_from([b"", b"\n"]),
)
def test_lines_of_batch_files(target: EngineProcess, lines: list[bytes], odd: list[bytes], last: bytes) -> None:
    uploaded = target.upload(b"\n".join([*lines, *odd]) + last).raise_for_status().json()
    created = target.post("/batches", json=batch_body(uploaded["id"])).raise_for_status().json()
    batch = target.finished(created["id"])
    counts = batch["request_counts"]
    assert counts["completed"] + counts["failed"] == counts["total"]
    if batch["status"] == "failed":
        assert batch["errors"]["data"] and all(error["code"] and error["message"] for error in batch["errors"]["data"])
        return
    assert batch["status"] == "completed"
    found = [line["custom_id"] for name in ("output", "error") for line in target.lines(batch[f"{name}_file_id"])]
    assert sorted(found) == sorted(orjson.loads(line)["custom_id"] for line in [*lines, *odd] if line.strip())
