"""Owners: who is let in, and that nobody sees, names, takes or changes what another made, by any route."""

import hashlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from embedfill.engine.owners import ANYBODY, Owners
from tests.engine_fixtures import STATIC, EngineProcess, batch_body, jsonl, request_line, until

KEYS = {"search": "sk-search-0123456789", "reports": "sk-reports-0123456789"}
LINE = jsonl([request_line("a", "text")])


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_a_key_proves_its_owner() -> None:
    owners = Owners({digest("one"): "a", digest("other"): "a", digest("two"): "b"})
    found = [owners.find(f"Bearer {key}") for key in ("one", "other", "two", "three", "")]
    assert found == ["a", "a", "b", None, None]
    assert [owners.find(given) for given in ("bearer two", "BEARER  two ", "Basic two", "two", "")] == [
        "b",
        "b",
        None,
        None,
        None,
    ]
    assert Owners({}).find("") == Owners({}).find("Bearer whatever") == ANYBODY
    assert not any(key in str(vars(owners)) for key in ("one", "other", "two"))


def test_a_key_that_is_not_ascii() -> None:
    """Headers come as bytes, decoded one to one."""
    owners = Owners({digest("schlüssel-ключ"): "a"})
    assert owners.find("Bearer " + "schlüssel-ключ".encode().decode("latin-1")) == "a"
    assert owners.find("Bearer schlüssel") is None
    assert owners.find("Bearer ключ") is None


def test_keys_can_be_replaced() -> None:
    owners = Owners({digest("one"): "a"})
    owners.replace({digest("two"): "a"})
    assert (owners.find("Bearer one"), owners.find("Bearer two")) == (None, "a")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    """An engine with two owners. What is `old` was made before it had any."""
    folder = tmp_path_factory.mktemp("owners")
    config = folder / "engine.toml"
    config.write_text("[engine]\n" + "".join(f'keys.{name}.sha256 = "{digest(key)}"\n' for name, key in KEYS.items()))
    engine = EngineProcess(folder / "engine").start()
    engine.old = engine.upload(LINE).json()["id"]  # type: ignore[attr-defined]
    engine.stop()
    yield engine.start("--config", str(config), "--model", STATIC)
    engine.close()


class Owner:
    """A client with a key."""

    def __init__(self, engine: EngineProcess, key: str) -> None:
        self._engine = engine
        self._headers = bearer(key)

    def __call__(self, method: str, path: str, headers: dict[str, str] | None = None, **options: Any) -> httpx.Response:
        given = {**self._headers, **(headers or {})}
        return self._engine.http.request(method, self._engine.url + path, headers=given, **options)

    def made(self, method: str, path: str, **options: Any) -> str:
        return str(self(method, path, **options).raise_for_status().json()["id"])

    def file(self, data: bytes = LINE) -> str:
        return self.made("POST", "/files", data={"purpose": "batch"}, files={"file": ("x.jsonl", data)})

    def batch(self, file_id: str, key: str | None = None) -> str:
        headers = {"Idempotency-Key": key} if key else None
        return self.made("POST", "/batches", json=batch_body(file_id), headers=headers)

    def ended(self, batch_id: str) -> dict[str, Any]:
        found: dict[str, Any] = until(
            lambda: self("GET", f"/batches/{batch_id}").json(), lambda one: one["status"] in ("completed", "failed")
        )
        return found

    def listed(self, path: str) -> list[str]:
        return [one["id"] for one in self("GET", path).raise_for_status().json()["data"]]


@pytest.fixture
def search(shared: EngineProcess) -> Owner:
    return Owner(shared, KEYS["search"])


@pytest.fixture
def reports(shared: EngineProcess) -> Owner:
    return Owner(shared, KEYS["reports"])


def test_without_a_key_there_is_nothing(shared: EngineProcess) -> None:
    for path in ("/files", "/batches", "/models", "/uploads", "/nothing", "/../metrics"):
        for headers in ({}, bearer("sk-wrong"), {"Authorization": f"Basic {KEYS['search']}"}):
            answer = shared.http.get(shared.url + path, headers=headers)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), path


def test_a_key_is_enough_wherever_it_comes_from(search: Owner) -> None:
    """No web page has it."""
    for headers in ({"Host": "engine.example"}, {"Origin": "http://app.example", "Sec-Fetch-Site": "cross-site"}):
        assert search("GET", "/files", headers).is_success


def test_another_owners_things_do_not_exist(search: Owner, reports: Owner) -> None:
    """Every route with an id answers as for an id that was never given."""
    file_id = search.file()
    batch = search.ended(search.batch(file_id))
    upload = {"purpose": "batch", "bytes": len(LINE), "filename": "x.jsonl", "mime_type": "application/jsonl"}
    upload_id = search.made("POST", "/uploads", json=upload)
    part_id = search.made("POST", f"/uploads/{upload_id}/parts", files={"data": ("part", LINE)})
    own_id = reports.made("POST", "/uploads", json=upload)
    files = (file_id, batch["output_file_id"], "file-" + "0" * 24)
    asked = {
        *(("GET", f"/files/{one}", None) for one in files),
        *(("GET", f"/files/{one}/content", None) for one in files),
        *(("DELETE", f"/files/{one}", None) for one in files),
        *(("GET", f"/batches/{one}", None) for one in (batch["id"], "batch_0")),
        *(("POST", f"/batches/{one}/cancel", None) for one in (batch["id"], "batch_0")),
        *(("POST", f"/uploads/{one}/cancel", None) for one in (upload_id, "upload_0")),
    }
    for method, path, _body in asked:
        answer = reports(method, path)
        assert answer.status_code == 404, (method, path)
        assert batch["id"] in path or "search" not in answer.text
    assert reports("POST", f"/uploads/{upload_id}/parts", files={"data": ("part", LINE)}).status_code == 404
    assert reports("POST", f"/uploads/{upload_id}/complete", json={"part_ids": [part_id]}).status_code == 404
    assert reports("POST", f"/uploads/{own_id}/complete", json={"part_ids": [part_id]}).is_client_error
    # It is all still there for the one whose it is.
    assert search("GET", f"/files/{file_id}/content").content == LINE
    assert search("GET", f"/batches/{batch['id']}").json() == batch
    assert search("POST", f"/uploads/{upload_id}/complete", json={"part_ids": [part_id]}).is_success


def test_lists_hold_what_is_ones_own(search: Owner, reports: Owner) -> None:
    file_id = search.file()
    batch_id = search.batch(file_id)
    assert file_id in search.listed("/files") and batch_id in search.listed("/batches")
    assert file_id not in reports.listed("/files") and batch_id not in reports.listed("/batches")
    own_file = reports.file()
    own_batch = reports.batch(own_file)
    for path, cursor in (("/files", file_id), ("/batches", batch_id)):  # another's cursor is an unknown one
        assert reports("GET", path, params={"after": cursor}).json()["data"] == []
    assert reports("GET", "/files", params={"after": own_file, "order": "desc"}).is_success
    assert search("GET", "/batches", params={"after": own_batch}).json()["data"] == []
    only = reports("GET", "/files", params={"limit": 1, "purpose": "batch"}).json()
    assert only["data"][0]["id"] == own_file


def test_a_batch_of_anothers_file_fails_as_of_none(search: Owner, reports: Owner) -> None:
    file_id = search.file()
    errors = []
    for one in (file_id, "file-" + "0" * len(file_id.removeprefix("file-"))):
        ended = reports.ended(reports.batch(one))
        assert ended["status"] == "failed"
        errors.append(str(ended["errors"]).replace(one, "ID"))
    assert errors[0] == errors[1]
    assert search.ended(search.batch(file_id))["status"] == "completed"


def test_an_output_belongs_to_the_batchs_owner(search: Owner, reports: Owner) -> None:
    ended = search.ended(search.batch(search.file()))
    assert search("GET", f"/files/{ended['output_file_id']}/content").is_success
    assert ended["output_file_id"] in search.listed("/files?purpose=batch_output")
    assert ended["output_file_id"] not in reports.listed("/files?purpose=batch_output")


def test_idempotency_keys_are_each_owners_own(search: Owner, reports: Owner) -> None:
    mine, theirs = search.file(), reports.file()
    made = search.batch(mine, "same-key")
    assert search.batch(mine, "same-key") == made
    other = reports.batch(theirs, "same-key")  # another body, too: no 409 tells of the first
    assert other != made and reports.batch(theirs, "same-key") == other


def test_what_was_made_without_keys_is_everybodys(shared: EngineProcess, search: Owner, reports: Owner) -> None:
    old = shared.old  # type: ignore[attr-defined]
    assert old in search.listed("/files") and old in reports.listed("/files")
    assert search.ended(search.batch(old))["status"] == "completed"


def test_the_official_client_says_that_it_is_not_authorized(shared: EngineProcess) -> None:
    for key, error in ((KEYS["search"], None), ("sk-wrong", openai.AuthenticationError)):
        with openai.OpenAI(base_url=shared.url, api_key=key, max_retries=0) as client:
            if error is None:
                assert client.models.list().data
                continue
            with pytest.raises(error):
                client.models.list()


def test_what_a_key_made_outlives_it(new_engine: Callable[..., EngineProcess]) -> None:
    """A key without a name can be changed, or be given one."""
    engine = new_engine()
    for key in ("sk-first-0123456789", "sk-second-0123456789"):
        Owner(engine.start("--api-key", key), key).file()
        engine.stop()
    engine.data.with_name("engine.toml").write_text(f'[engine]\nkeys.default.sha256 = "{digest("sk-third")}"\n')
    engine.start("--config", str(engine.data.with_name("engine.toml")))
    assert len(Owner(engine, "sk-third").listed("/files")) == 2


def test_keys_are_read_again_on_a_hang_up(new_engine: Callable[..., EngineProcess], tmp_path: Path) -> None:
    config = tmp_path / "engine.toml"

    def write(*names: str) -> None:
        config.write_text("[engine]\n" + "".join(f'keys.{name}.sha256 = "{digest(KEYS[name])}"\n' for name in names))

    def statuses(engine: EngineProcess) -> list[int]:
        return [engine.get("/models", headers=bearer(key)).status_code for key in KEYS.values()]

    write("search")
    engine = new_engine("--config", str(config)).start()
    assert engine.process is not None and statuses(engine) == [200, 401]
    write("reports")
    os.kill(engine.process.pid, signal.SIGHUP)
    until(lambda: statuses(engine), lambda found: found == [401, 200])
    for broken in ("[engine]\n", "[engine", '[engine]\nkeys.a = "x"\n'):  # nor is an engine opened by mistake
        config.write_text(broken)
        os.kill(engine.process.pid, signal.SIGHUP)
        assert [statuses(engine) for _ in range(3)] == [[401, 200]] * 3
    write("search", "reports")
    os.kill(engine.process.pid, signal.SIGHUP)
    until(lambda: statuses(engine), lambda found: found == [200, 200])
    assert engine.stop() == 0
