"""Uploads in parts: what becomes a file, what is refused, and that nothing is left of what did not."""

import hashlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types import Upload

from embedfill.engine.state.database import Database
from embedfill.engine.state.files import Files
from embedfill.engine.state.uploads import NewUpload, Uploads
from embedfill.errors import RefusedError
from tests.engine_fixtures import EngineProcess, batch_body, jsonl, request_line

DATA = jsonl(request_line(f"r{n}", f"text {n}") for n in range(300))


def created(engine: EngineProcess, size: int, **body: object) -> str:
    values = {"filename": "in.jsonl", "purpose": "batch", "bytes": size, "mime_type": "application/jsonl", **body}
    return str(engine.post("/uploads", json=values).raise_for_status().json()["id"])


def sent(engine: EngineProcess, upload_id: str, data: bytes) -> httpx.Response:
    return engine.post(f"/uploads/{upload_id}/parts", files={"data": ("blob", data)})


def added(engine: EngineProcess, upload_id: str, data: bytes) -> str:
    return str(sent(engine, upload_id, data).raise_for_status().json()["id"])


def completed(engine: EngineProcess, upload_id: str, *part_ids: str, **body: object) -> httpx.Response:
    return engine.post(f"/uploads/{upload_id}/complete", json={"part_ids": part_ids, **body})


def code(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # some versions leave the file open
def test_the_official_client_uploads_in_parts(sdk: openai.OpenAI, engine: EngineProcess, tmp_path: Path) -> None:
    source = tmp_path / "large.jsonl"
    source.write_bytes(DATA)
    upload = sdk.uploads.upload_file_chunked(
        file=source, mime_type="application/jsonl", purpose="batch", part_size=1000, md5=hashlib.md5(DATA).hexdigest()
    )
    Upload.model_validate(upload.to_dict(mode="json"), strict=True)
    assert (upload.status, upload.bytes, upload.expires_at - upload.created_at) == ("completed", len(DATA), 3600)
    assert upload.file is not None
    assert (upload.file.bytes, upload.file.filename, upload.file.purpose) == (len(DATA), "large.jsonl", "batch")
    assert sdk.files.content(upload.file.id).content == DATA
    batch = engine.post("/batches", json=batch_body(upload.file.id)).raise_for_status().json()
    assert engine.finished(batch["id"])["request_counts"] == {"total": 300, "completed": 300, "failed": 0}


def test_the_ids_say_the_order(engine: EngineProcess) -> None:
    upload_id = created(engine, 6, purpose="user_data", expires_after={"anchor": "created_at", "seconds": 4000})
    last, first = added(engine, upload_id, b"def"), added(engine, upload_id, b"abc")
    unused = added(engine, upload_id, b"xyz")
    assert {first, last, unused} <= set(os.listdir(engine.data / "uploads"))
    done = completed(engine, upload_id, first, last).raise_for_status().json()
    assert engine.get(f"/files/{done['file']['id']}/content").content == b"abcdef"
    assert done["file"]["expires_at"] - done["file"]["created_at"] == 4000
    assert not {first, last, unused} & set(os.listdir(engine.data / "uploads"))
    again = completed(engine, upload_id, first, last).raise_for_status().json()
    assert again == done
    assert code(completed(engine, upload_id, last, first)) == (400, "invalid_upload_status")
    assert code(sent(engine, upload_id, b"more")) == (400, "invalid_upload_status")
    assert code(engine.post(f"/uploads/{upload_id}/cancel")) == (400, "invalid_upload_status")
    engine.http.delete(f"{engine.url}/files/{done['file']['id']}").raise_for_status()
    assert completed(engine, upload_id, first, last).json()["file"] is None


def test_two_who_complete_at_once_make_one_file(engine: EngineProcess) -> None:
    upload_id = created(engine, 4_000_000, purpose="user_data")
    part_ids = [added(engine, upload_id, bytes([n]) * 1_000_000) for n in range(4)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: completed(engine, upload_id, *part_ids), range(4)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["file"]["id"] for answer in answers}) == 1


def test_a_cancelled_upload_takes_nothing_more(engine: EngineProcess) -> None:
    upload_id = created(engine, 3)
    part = added(engine, upload_id, b"abc")
    cancelled = engine.post(f"/uploads/{upload_id}/cancel").raise_for_status().json()
    assert (cancelled["status"], cancelled["file"]) == ("cancelled", None)
    assert part not in os.listdir(engine.data / "uploads")
    assert code(sent(engine, upload_id, b"abc")) == (400, "invalid_upload_status")
    assert code(completed(engine, upload_id, part)) == (400, "invalid_upload_status")
    assert engine.post(f"/uploads/{upload_id}/cancel").json() == cancelled


def test_what_does_not_add_up_is_refused_and_may_be_mended(engine: EngineProcess) -> None:
    upload_id = created(engine, 6, purpose="user_data")
    part = added(engine, upload_id, b"abc")
    other = added(engine, created(engine, 3), b"abc")
    for part_ids, param in (([part], "part_ids"), ([part, part], "part_ids"), ([part, other], "part_ids")):
        refused = completed(engine, upload_id, *part_ids)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
    rest = added(engine, upload_id, b"def")
    assert code(completed(engine, upload_id, part, rest, md5="0" * 32)) == (400, "md5_mismatch")
    assert completed(engine, upload_id, part, rest, md5=hashlib.md5(b"abcdef").hexdigest()).status_code == 200


def test_a_batch_file_in_parts_is_looked_at_too(engine: EngineProcess) -> None:
    upload_id = created(engine, 7)
    part = added(engine, upload_id, b"no json")
    assert code(completed(engine, upload_id, part)) == (400, "invalid_file_format")
    assert os.listdir(engine.data / "parts") == []


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"bytes": 0}, "bytes"),
        ({"bytes": 200_000_001}, "bytes"),
        ({"bytes": 8_000_000_001, "purpose": "user_data"}, "bytes"),
        ({"bytes": True}, "bytes"),
        ({"bytes": "7"}, "bytes"),
        ({"purpose": "holiday"}, "purpose"),
        ({"filename": ""}, "filename"),
        ({"filename": "x" * 256}, "filename"),
        ({"mime_type": None}, "mime_type"),
        ({"expires_after": {"anchor": "created_at", "seconds": 1}}, "expires_after.seconds"),
    ],
)
def test_an_upload_that_cannot_be_is_refused(engine: EngineProcess, body: dict[str, Any], param: str) -> None:
    values = {"filename": "x", "purpose": "batch", "bytes": 1, "mime_type": "text/plain", **body}
    response = engine.post("/uploads", json=values)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_parts_that_are_none(engine: EngineProcess) -> None:
    upload_id = created(engine, 3)
    assert code(engine.post(f"/uploads/{upload_id}/parts", json={}))[0] == 400
    assert code(engine.post(f"/uploads/{upload_id}/parts", files={"file": b"x"}))[0] == 400
    assert code(sent(engine, upload_id, b"x" * ((64 << 20) + 1))) == (400, "file_too_large")
    for body in ({}, {"part_ids": "x"}, {"part_ids": [1]}, {"part_ids": [], "md5": 1}):
        assert engine.post(f"/uploads/{upload_id}/complete", json=body).status_code == 400
    for path in ("parts", "complete", "cancel"):
        assert engine.post(f"/uploads/upload_none/{path}", json={"part_ids": []}).status_code == 404
    assert os.listdir(engine.data / "parts") == []


def test_a_kill_keeps_parts_that_were_answered_and_no_others(new_engine: Callable[..., EngineProcess]) -> None:
    engine = new_engine().start()
    upload_id = created(engine, 6, purpose="user_data")
    part = added(engine, upload_id, b"abc")
    (engine.data / "uploads" / "part_without_a_row").write_bytes(b"renamed, then killed")
    (engine.data / "parts" / "half").write_bytes(b"joined in half, then killed")
    engine.kill()
    engine.start()
    assert os.listdir(engine.data / "uploads") == [part]
    assert os.listdir(engine.data / "parts") == []
    done = completed(engine, upload_id, part, added(engine, upload_id, b"def")).raise_for_status().json()
    assert engine.get(f"/files/{done['file']['id']}/content").content == b"abcdef"
    assert os.listdir(engine.data / "uploads") == []


@pytest.fixture
def uploads(tmp_path: Path) -> Iterator[Uploads]:
    database = Database(tmp_path / "engine.db")
    yield Uploads(tmp_path, database, Files(tmp_path, database))
    database.close()


def _part(uploads: Uploads, upload_id: str, owner: str, data: bytes) -> str:
    part = uploads.new_part(upload_id, owner)
    part.write_bytes(data)
    return str(uploads.add(upload_id, owner, part)["id"])


def test_an_owner_sees_no_other_s(uploads: Uploads) -> None:
    upload_id = uploads.create(NewUpload(3, "x", "user_data", None, "ann"))["id"]
    part = _part(uploads, upload_id, "ann", b"abc")
    for attempt in (
        lambda: uploads.new_part(upload_id, "bob"),
        lambda: uploads.complete(upload_id, "bob", [part], None),
        lambda: uploads.cancel(upload_id, "bob"),
    ):
        with pytest.raises(RefusedError) as refused:
            attempt()
        assert refused.value.status == 404
    assert uploads.complete(upload_id, "ann", [part], None)["file"]["bytes"] == 3


def test_an_expired_upload_is_over_at_once_and_swept(uploads: Uploads, tmp_path: Path) -> None:
    upload_id = uploads.create(NewUpload(3, "x", "user_data", None, ""))["id"]
    part = _part(uploads, upload_id, "", b"abc")
    _set(tmp_path, "expires_at", int(time.time()) - 1)
    for attempt in (
        lambda: uploads.new_part(upload_id, ""),
        lambda: uploads.complete(upload_id, "", [part], None),
        lambda: uploads.cancel(upload_id, ""),
    ):
        with pytest.raises(RefusedError, match="expired"):
            attempt()
    assert os.listdir(tmp_path / "uploads") == [part]
    uploads.sweep()
    assert os.listdir(tmp_path / "uploads") == []
    with pytest.raises(RefusedError, match="expired"):
        uploads.cancel(upload_id, "")
    _set(tmp_path, "expires_at", int(time.time()) - 100_000)
    uploads.sweep()
    with pytest.raises(RefusedError, match="No such Upload"):
        uploads.cancel(upload_id, "")


def test_parts_are_bounded(uploads: Uploads, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("embedfill.engine.state.uploads._PARTS", 2)
    upload_id = uploads.create(NewUpload(3, "x", "user_data", None, ""))["id"]
    _part(uploads, upload_id, "", b"abc")
    _part(uploads, upload_id, "", b"abc")
    with pytest.raises(RefusedError, match="too many parts"):
        _part(uploads, upload_id, "", b"abc")
    monkeypatch.setattr("embedfill.engine.state.uploads.PART_BYTES", 2)
    monkeypatch.setattr("embedfill.engine.state.uploads._PARTS", 100)
    with pytest.raises(RefusedError, match="too many parts"):
        _part(uploads, upload_id, "", b"abc")
    assert len(os.listdir(tmp_path / "uploads")) == 2


def _set(data: Path, name: str, value: int) -> None:
    connection = sqlite3.connect(data / "engine.db")
    with connection:
        connection.execute(f"UPDATE uploads SET {name} = ?", (value,))
    connection.close()
