"""The engine's state in SQLite: one writer thread with group commit, readers on connections of their own.

A change is a function of the connection; `write` returns a future that resolves once the change is on disk. Changes
take effect in the order in which they were handed in. Knows the tables, not what they are for.
"""

import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from embedfill.engine.state.schema import STEPS, VERSION
from embedfill.engine.telemetry import logs
from embedfill.engine.telemetry.meter import UNMETERED, Meter
from embedfill.errors import EmbedfillError, WorldError

T = TypeVar("T")
Change = Callable[[sqlite3.Connection], T]

_GROUP = 500  # changes of one commit, at most
_FAILURES = (sqlite3.Error, EmbedfillError, OSError)
_MISTAKES = (OverflowError, ValueError, TypeError)  # ours: values that SQLite cannot hold


class Database:
    def __init__(self, path: Path, meter: Meter = UNMETERED) -> None:
        self._path = path
        self._meter = meter
        self._queue: queue.SimpleQueue[tuple[Change[Any], Future[Any]] | None] = queue.SimpleQueue()
        self._idle: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        connection = self._connect()
        _migrate(connection, path)
        self._writer = threading.Thread(target=self._run, args=(connection,), name="database-writer", daemon=True)
        self._writer.start()

    def write(self, change: Change[T]) -> Future[T]:
        """Hands in a change. The future raises what `change` raised; nothing of that change is kept then."""
        future: Future[T] = Future()
        self._queue.put((change, future))
        if not self._writer.is_alive():
            self._fail_waiting()
        return future

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """A connection to read with: it sees what was committed when its first query began."""
        try:
            connection = self._idle.get_nowait()
        except queue.Empty:
            connection = self._connect()
        try:
            yield connection
        finally:
            self._idle.put(connection)

    def close(self) -> None:
        """Commits what was handed in, and ends. No reader may be left."""
        self._queue.put(None)
        self._writer.join()
        while not self._idle.empty():
            self._idle.get_nowait().close()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=30.0, isolation_level=None, check_same_thread=False)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # an answer that was given survives a power failure
        return connection

    def _run(self, connection: sqlite3.Connection) -> None:
        try:
            while (first := self._queue.get()) is not None:
                group = [first]
                closing = self._fill(group)
                self._commit(connection, group)
                if closing:
                    return
        finally:
            connection.close()
            self._fail_waiting()

    def _fail_waiting(self) -> None:
        """Nobody is to wait for a writer that has gone."""
        while not self._queue.empty():
            item = self._queue.get()
            if item is not None:
                item[1].set_exception(WorldError("the engine's database is closed", "start the engine again"))

    def _fill(self, group: list[tuple[Change[Any], Future[Any]]]) -> bool:
        """Adds what else is waiting; True when the end was asked for."""
        while len(group) < _GROUP and not self._queue.empty():
            item = self._queue.get()
            if item is None:
                return True
            group.append(item)
        return False

    def _commit(self, connection: sqlite3.Connection, group: list[tuple[Change[Any], Future[Any]]]) -> None:
        done: list[tuple[Future[Any], Any]] = []
        failure: Exception = WorldError("the engine's writer died of an error of its own", "see the engine's log")
        began = time.perf_counter()
        try:
            connection.execute("BEGIN IMMEDIATE")
            for change, future in group:
                _apply(connection, change, future, done)
            connection.execute("COMMIT")
            self._meter.commit(len(group), time.perf_counter() - began)
            for future, result in done:
                future.set_result(result)
        except _FAILURES as error:
            failure = error
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        finally:
            for _change, future in group:
                if not future.done():
                    future.set_exception(failure)


def _apply(
    connection: sqlite3.Connection, change: Change[Any], future: Future[Any], done: list[tuple[Future[Any], Any]]
) -> None:
    """One change of a group: undone alone when it fails."""
    connection.execute("SAVEPOINT change")
    try:
        done.append((future, change(connection)))
    except _FAILURES as error:
        if not connection.in_transaction:
            raise  # on a full disk SQLite undoes the whole group itself
        connection.execute("ROLLBACK TO change")
        future.set_exception(error)
    except _MISTAKES as error:
        logs.error("a change failed", error)
        connection.execute("ROLLBACK TO change")
        future.set_exception(error)
    connection.execute("RELEASE change")


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Brings older tables to this version's, step by step, each whole or not at all."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise WorldError(
            f"{path} was written by a newer version of the engine (format {version}, this one knows {VERSION})",
            "use the embedfill that wrote it, or another data directory",
        )
    for number, step in enumerate(STEPS[version:], version + 1):
        connection.executescript(f"BEGIN; {step} PRAGMA user_version = {number}; COMMIT;")
