"""A directory that cannot be written: requests are told so, the engine goes on once there is room, and loses nothing.

The limit on the size of a file stands for the full disk: writes fail as they do there, at any point of one. Where the
test may mount one, a small disk of its own is really full, and really read-only.
"""

import contextlib
import errno
import os
import resource
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from embedfill.engine import room
from embedfill.errors import WorldError
from tests.engine_fixtures import STATIC, EngineProcess, batch_body, jsonl, request_line, texts, until
from tests.invariants_fixtures import Ledger, violations

_LINES = 2_000


def _leave(engine: EngineProcess, size: int) -> None:
    """No file of the running engine may be written beyond `size`."""
    assert engine.process is not None
    resource.prlimit(engine.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def test_requests_on_a_full_disk(new_engine: Callable[..., EngineProcess]) -> None:
    engine = new_engine().start()
    small, large = jsonl([request_line("a", "text")]), jsonl(request_line(f"r{n}", "text") for n in range(30_000))
    file_id = engine.upload(small).raise_for_status().json()["id"]
    for size, call in (
        (200_000, lambda: engine.upload(large)),  # its part file
        (1_000, lambda: engine.upload(small)),  # its row
        (1_000, lambda: engine.post("/batches", json=batch_body(file_id))),
        (1_000, lambda: engine.http.delete(f"{engine.url}/files/{file_id}")),
    ):
        _leave(engine, size)
        response = call()
        error = response.json()["error"]
        assert (response.status_code, error["code"], error["type"]) == (507, "insufficient_storage", "server_error")
        assert str(engine.data) in error["message"] and "nothing is lost" in error["message"]
        assert response.headers["x-should-retry"] == "false"
        assert engine.get(f"/files/{file_id}/content").content == small
        assert [len(list((engine.data / name).iterdir())) for name in ("parts", "files")] == [0, 1]
        assert engine.get("/batches").json()["data"] == []
    _leave(engine, resource.RLIM_INFINITY)
    assert engine.finished(engine.submit(small))["status"] == "completed"


def _reasons(engine: EngineProcess) -> list[str]:
    """Why the engine says that it is not ready."""
    response = engine.http.get(engine.url.removesuffix("/v1") + "/readyz")
    return list(response.json()["reasons"]) if response.status_code == 503 else []


def test_a_running_batch_on_a_full_disk(
    new_engine: Callable[..., EngineProcess], capfd: pytest.CaptureFixture[str]
) -> None:
    engine = new_engine("--model", STATIC).start()
    file_id = engine.upload(jsonl(request_line(f"r{n}", list(texts(2, 2 * n))) for n in range(_LINES))).json()["id"]
    _leave(engine, 3_000_000)  # the results take more
    batch_id = engine.post("/batches", json=batch_body(file_id)).raise_for_status().json()["id"]
    waits = "work waits until the data directory can be written again"
    until(lambda: _reasons(engine), lambda reasons: waits in reasons)
    assert engine.upload(bytes(4_000_000)).status_code == 507
    assert engine.get(f"/batches/{batch_id}").json()["status"] == "in_progress"
    assert engine.get(f"/files/{file_id}/content").status_code == 200
    _leave(engine, resource.RLIM_INFINITY)
    assert engine.finished(batch_id)["request_counts"] == {"total": _LINES, "completed": _LINES, "failed": 0}
    until(lambda: _reasons(engine), lambda reasons: waits not in reasons)
    told = capfd.readouterr().err
    assert told.count("waiting for room") == told.count("there is room again") == 1 and "too large" in told
    assert str(engine.data) in told and "free some space on the disk" in told
    connection = sqlite3.connect(engine.data / "engine.db")
    assert connection.execute("SELECT runs, count(*) FROM lines GROUP BY runs").fetchall() == [(1, _LINES)]
    connection.close()


def _mount(*arguments: str) -> bool:
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 6 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    if not _mount("-t", "tmpfs", "-o", "size=6m", "tmpfs", str(place)):
        pytest.skip("mounting a disk is not allowed here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def _fill(disk: Path, leave: int = 0) -> Path:
    """A file that takes all the room there is, but for `leave` bytes."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    os.truncate(ballast, ballast.stat().st_size - leave)
    return ballast


def test_a_disk_that_is_really_full(disk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ledger = Ledger()
    engine = EngineProcess(disk / "engine", "--model", STATIC).start()
    try:
        small = jsonl([request_line("a", "text")])
        file = engine.upload(small).raise_for_status().json()
        ledger.uploaded(file, small)
        ballast = _fill(disk)
        for call in (lambda: engine.upload(small), lambda: engine.post("/batches", json=batch_body(file["id"]))):
            response = call()
            assert (response.status_code, response.json()["error"]["code"]) == (507, "insufficient_storage")
            assert "No space left" in response.json()["error"]["message"]
        assert engine.get(f"/files/{file['id']}/content").content == small
        ballast.unlink()
        unused = file["id"]
        assert engine.finished(engine.submit(small))["status"] == "completed"

        lines = [request_line(f"r{n}", list(texts(2, 2 * n))) for n in range(_LINES)]
        large = jsonl(lines)
        file = engine.upload(large).raise_for_status().json()
        ledger.uploaded(file, large)
        _fill(disk, leave=400_000)  # the results take megabytes
        batch = engine.post("/batches", json=batch_body(file["id"])).raise_for_status().json()
        ledger.submitted(batch, [str(line["custom_id"]) for line in lines])
        until(lambda: capfd.readouterr().err, lambda told: "(No space left on device)" in told)
        assert _reasons(engine) == ["the disk of the data directory is nearly full"]
        assert engine.get(f"/batches/{batch['id']}").json()["status"] == "in_progress"
        ledger.deleting(unused)
        until(lambda: engine.http.delete(f"{engine.url}/files/{unused}").status_code, lambda status: status == 200)
        assert _mount("-o", "remount,size=64m", str(disk))
        ledger.saw(engine.finished(batch["id"]))
        until(lambda: any((engine.data / "spool").iterdir()), lambda left: not left)
        assert engine.stop() == 0
        assert violations(engine.data, ledger) == []
    finally:
        engine.close()


def test_a_disk_that_is_really_read_only(disk: Path) -> None:
    engine = EngineProcess(disk / "engine").start()
    try:
        batch_id = engine.submit(jsonl([request_line("a", "text")]))
        assert engine.stop() == 0
        assert _mount("-o", "remount,ro", str(disk))
        failed = subprocess.run(engine.command(), capture_output=True, text=True, timeout=60, check=False)
        assert failed.returncode == 1 and failed.stdout == ""
        assert failed.stderr.startswith("error: ") and "Read-only file system" in failed.stderr
        assert str(engine.data) in failed.stderr and "hint: " in failed.stderr and "Traceback" not in failed.stderr
        assert _mount("-o", "remount,rw", str(disk))
        assert engine.start().finished(batch_id)["status"] == "completed"
    finally:
        engine.close()


def test_what_says_that_a_disk_is_full(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "x", isolation_level=None)
    connection.execute("PRAGMA max_page_count = 1")
    with pytest.raises(sqlite3.Error) as full:
        connection.execute("CREATE TABLE x (y)")
    connection.close()
    assert room.cause(full.value) == errno.ENOSPC
    assert [room.cause(OSError(number, "")) for number in (errno.EDQUOT, errno.EIO, errno.ENOENT)] == [
        errno.EDQUOT,
        errno.EIO,
        None,
    ]
    assert room.cause(ValueError("full")) is room.cause(sqlite3.IntegrityError("full")) is None
    with pytest.raises(WorldError, match="No space left") as raised, room.explained(tmp_path):
        raise full.value
    assert str(tmp_path) in raised.value.message and "free some space" in raised.value.hint
    with pytest.raises(FileNotFoundError), room.explained(tmp_path):
        raise FileNotFoundError(errno.ENOENT, "gone")
