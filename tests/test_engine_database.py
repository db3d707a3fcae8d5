"""Changes take effect in order, whole or not at all, and are on disk when their future resolves."""

import sqlite3
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from embedfill.engine.state.database import Database
from embedfill.errors import RefusedError, WorldError


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(tmp_path / "engine.db")
    yield made
    made.close()


def _insert(connection: sqlite3.Connection, line: int) -> int:
    connection.execute("INSERT INTO lines VALUES (1, ?, 'output', 0, 1, 1, 1)", (line,))
    return line


def _lines(path: Path) -> list[int]:
    connection = sqlite3.connect(path / "engine.db")
    rows = connection.execute("SELECT line FROM lines ORDER BY line").fetchall()
    connection.close()
    return [row[0] for row in rows]


def test_a_resolved_change_is_seen_by_everybody(database: Database, tmp_path: Path) -> None:
    assert database.write(lambda connection: _insert(connection, 7)).result() == 7
    assert _lines(tmp_path) == [7]
    with database.read() as connection:
        assert connection.execute("SELECT line FROM lines").fetchone()["line"] == 7


def test_a_failing_change_is_undone_alone(database: Database, tmp_path: Path) -> None:
    def half(connection: sqlite3.Connection) -> None:
        _insert(connection, 100)
        raise RefusedError(409, "conflict", "no")

    futures: list[Future[int]] = []
    failing: list[Future[None]] = []
    for line in range(50):  # many at once: they share commits with the failing ones
        futures.append(database.write(lambda connection, line=line: _insert(connection, line)))
        failing.append(database.write(half))
    duplicate = database.write(lambda connection: _insert(connection, 3))
    assert [future.result() for future in futures] == list(range(50))
    for future in failing:
        with pytest.raises(RefusedError):
            future.result()
    with pytest.raises(sqlite3.IntegrityError):
        duplicate.result()
    assert _lines(tmp_path) == list(range(50))


def test_values_that_sqlite_cannot_hold_cost_their_change_only(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def half(connection: sqlite3.Connection, value: object) -> None:
        _insert(connection, 100)
        connection.execute("SELECT ?", (value,))

    wrong = [database.write(lambda connection, value=value: half(connection, value)) for value in (1 << 63, "\ud800")]
    right = database.write(lambda connection: _insert(connection, 1))
    for future, kind in zip(wrong, (OverflowError, UnicodeEncodeError)):
        with pytest.raises(kind):
            future.result(timeout=30)
    assert right.result(timeout=30) == 1 and _lines(tmp_path) == [1]
    assert [record.msg for record in caplog.records] == ["a change failed"] * 2


def test_a_full_disk_fails_its_group_and_nothing_else(database: Database, tmp_path: Path) -> None:
    def fill(connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA max_page_count = 1")  # as full as it is now
        try:
            for line in range(10_000, 20_000):
                _insert(connection, line)
        finally:
            connection.execute("PRAGMA max_page_count = 1000000")

    with pytest.raises(sqlite3.OperationalError, match="full"):
        database.write(fill).result()
    assert database.write(lambda connection: _insert(connection, 7)).result() == 7
    assert _lines(tmp_path) == [7]


def test_close_commits_what_was_handed_in(tmp_path: Path) -> None:
    database = Database(tmp_path / "engine.db")
    for line in range(2000):
        database.write(lambda connection, line=line: _insert(connection, line))
    database.close()
    assert _lines(tmp_path) == list(range(2000))
    again = Database(tmp_path / "engine.db")
    again.close()


def test_nobody_waits_for_a_writer_that_died(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    monkeypatch.setattr("threading.excepthook", lambda args: seen.append(args.exc_type))

    def mistaken(_connection: sqlite3.Connection) -> None:
        raise AssertionError("a mistake in the engine")

    futures = [database.write(mistaken), *(database.write(lambda connection: None) for _ in range(3))]
    for future in futures:
        with pytest.raises(WorldError):
            future.result(timeout=30)
    database._writer.join()
    with pytest.raises(WorldError):
        database.write(lambda connection: None).result(timeout=30)
    assert seen == [AssertionError]


def test_another_format_is_refused(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "engine.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(WorldError, match="format 99"):
        Database(tmp_path / "engine.db")
