"""/healthz and /readyz: when the engine should get no work, and that this tells nobody anything else."""

import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from embedfill.engine import health
from embedfill.engine.health import Health
from embedfill.engine.loop import Loop
from embedfill.engine.state.database import Database
from tests.engine_fixtures import EngineProcess

STOPPING = "the engine is stopping"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "engine.db")
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def _no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_FRESH_S", -1.0)


def test_a_running_engine_is_alive_and_ready_for_anybody(engine: EngineProcess) -> None:
    base = engine.url.removesuffix("/v1")
    alive, ready = httpx.get(f"{base}/healthz"), httpx.get(f"{base}/readyz")
    assert (alive.status_code, alive.json()["status"]) == (200, "ok")
    assert (ready.status_code, ready.json()) == (200, {"status": "ready", "reasons": []})


def test_all_is_well_until_it_stops(tmp_path: Path, database: Database) -> None:
    found = Health(tmp_path, database, [])
    assert found.reasons() == []
    found.stopping.set()
    assert found.reasons() == [STOPPING]


def test_a_thread_that_died(tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda _args: None)
    died, works = Loop("worker", lambda: bool(1 / 0), 1.0), Loop("validator", lambda: False, 0.01)
    found = Health(tmp_path, database, [works, died])
    for loop in (works, died):
        loop.start()
    died.stop(5.0)
    assert found.reasons() == ["the thread 'worker' does not run"]
    works.stop(5.0)


def test_a_disk_without_room(tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_ROOM_BYTES", 1 << 62)
    assert Health(tmp_path, database, []).reasons() == ["the disk of the data directory is nearly full"]


def test_a_directory_that_is_gone(tmp_path: Path, database: Database) -> None:
    assert Health(tmp_path / "gone", database, []).reasons() == ["the data directory is gone"]


def test_a_database_that_does_not_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_DATABASE_S", 0.05)
    database = Database(tmp_path / "engine.db")
    found = Health(tmp_path, database, [])
    held = threading.Event()
    slow = database.write(lambda _connection: held.wait(10.0))
    assert found.reasons() == ["the database did not answer within 0 s"]
    held.set()
    assert slow.result() and found.reasons() == []
    database.close()
    assert found.reasons() == ["the database cannot be written"]


def test_what_was_seen_holds_for_a_moment(tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_FRESH_S", 3600.0)
    found = Health(tmp_path, database, [])
    assert found.reasons() == []
    monkeypatch.setattr(health, "_ROOM_BYTES", 1 << 62)
    assert found.reasons() == []
    found.stopping.set()
    assert found.reasons() == [STOPPING]
