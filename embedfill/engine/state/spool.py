"""The work in progress of one batch: its input, held; its output and error lines, appended, with offsets in SQLite.

A line is finished once its row is committed, and its bytes are synced before that. What stands behind the last
committed row was cut short by a crash and is cut off when the spool is opened again. Does not know what lines say.
"""

import os
import shutil
import sqlite3
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from embedfill.engine.state.database import Database
from embedfill.engine.telemetry.meter import UNMETERED, Meter
from embedfill.errors import WorldError
from embedfill.store.local import sync_directory

Name = Literal["output", "error"]
NAMES: tuple[Name, ...] = ("output", "error")
_NOTHING = (0, 0, 0, 0)
_PROBE = bytes(1 << 16)


class Result(NamedTuple):
    """The result of one request: `text` is its whole line. `ran` is False where the request was never run. (A named
    tuple: a batch makes tens of thousands of these, and frozen dataclasses take three times as long.)"""

    line: int
    spool: Name
    text: bytes
    tokens: int = 0  # of the request
    ran: bool = True
    cached_tokens: int = 0  # of those
    output_tokens: int = 0
    reasoning_tokens: int = 0  # of those


class Spool:
    """Open for one batch, by one thread. `seq` is the number of the batch in the database."""

    def __init__(self, folder: Path, seq: int, database: Database, meter: Meter = UNMETERED) -> None:
        self.folder = folder
        self._meter = meter
        self._seq = seq
        self._database = database
        self._gap = threading.Event()  # set once a record failed: what stands behind it is never recorded
        self._ends = self._committed()
        self._files: dict[Name, int] = {}
        try:
            self._open()
        except OSError:
            self.close()
            raise

    def _open(self) -> None:
        for name in NAMES:
            self._files[name] = os.open(self.path(name), os.O_WRONLY | os.O_CREAT, 0o644)
            # No work is begun, nor paid for, whose results would find no room.
            os.pwrite(self._files[name], _PROBE, self._ends[name])
            os.ftruncate(self._files[name], self._ends[name])
        sync_directory(self.folder)

    def path(self, name: Name) -> Path:
        return self.folder / name

    def size(self, name: Name) -> int:
        return self._ends[name]

    def finished(self) -> set[int]:
        """The lines (counted from 1) that have a result."""
        with self._database.read() as connection:
            rows = connection.execute("SELECT line FROM lines WHERE batch = ?", (self._seq,)).fetchall()
        return {row[0] for row in rows}

    def append(self, results: Sequence[Result]) -> Future[None]:
        """Writes results and hands in their record; the future resolves once both are on disk."""
        rows: list[tuple[int, int, Name, int, int, int, int]] = []
        ends = dict(self._ends)
        for name in NAMES:
            texts: list[bytes] = []
            stop = ends[name]
            for line, spool, text, tokens, ran, *_others in results:
                if spool == name:
                    start, stop = stop, stop + len(text)
                    texts.append(text)
                    rows.append((self._seq, line, name, start, stop, tokens, ran))
            if texts:
                _write(self._files[name], b"".join(texts), ends[name])
                ends[name] = stop
        self._ends = ends
        spent = [sum(column) for column in zip(_NOTHING, *map(_spent, results))]
        gap = self._gap
        written = self._database.write(lambda connection: self._record(connection, rows, spent, gap))
        completed = sum(result.spool == "output" for result in results)
        written.add_done_callback(partial(self._tell, completed, len(results) - completed, spent, gap))
        return written

    def rewind(self) -> None:
        """After an append failed, and once every other one has resolved: cuts off what stands behind the last record, and
        the next append goes there."""
        self._ends = self._committed()
        for name in NAMES:
            os.ftruncate(self._files[name], self._ends[name])
        self._gap = threading.Event()

    def _tell(self, completed: int, failed: int, spent: list[int], gap: threading.Event, written: Future[None]) -> None:
        """Called by the writer, before it comes to its next change."""
        if written.exception():
            gap.set()
        else:
            self._meter.lines(completed, failed, spent[0], spent[2])

    def close(self) -> None:
        """Only once every append has resolved."""
        for descriptor in self._files.values():
            os.close(descriptor)

    def _record(
        self,
        connection: sqlite3.Connection,
        rows: list[tuple[int, int, Name, int, int, int, int]],
        spent: list[int],
        gap: threading.Event,
    ) -> None:
        if gap.is_set():
            raise WorldError("a result before these could not be recorded", "start the engine again; nothing is lost")
        for name in {row[2] for row in rows}:
            os.fsync(self._files[name])
        connection.executemany(
            "INSERT INTO lines VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET runs = runs + excluded.runs", rows
        )
        completed = sum(row[2] == "output" for row in rows)
        connection.execute(
            "UPDATE batches SET completed = completed + ?, failed = failed + ?, input_tokens = input_tokens + ?, "
            "cached_tokens = cached_tokens + ?, output_tokens = output_tokens + ?, "
            "reasoning_tokens = reasoning_tokens + ? WHERE seq = ?",
            (completed, len(rows) - completed, *spent, self._seq),
        )

    def _committed(self) -> dict[Name, int]:
        query = "SELECT spool, max(stop) FROM lines WHERE batch = ? GROUP BY spool"
        with self._database.read() as connection:
            found = dict(connection.execute(query, (self._seq,)).fetchall())
        return {name: found.get(name, 0) for name in NAMES}


class Spools:
    """The folder of all spools."""

    def __init__(self, root: Path, database: Database, meter: Meter = UNMETERED) -> None:
        self._root = root / "spool"
        self._database = database
        self._meter = meter
        self._root.mkdir(parents=True, exist_ok=True)

    def hold(self, batch_id: str, source: Path) -> Path:
        """The batch's own name for its input file: deleting the file does not take it away from a running batch.
        Raises FileNotFoundError."""
        held = self.input(batch_id)
        held.parent.mkdir(exist_ok=True)
        held.hardlink_to(source)
        sync_directory(held.parent)
        sync_directory(self._root)
        return held

    def input(self, batch_id: str) -> Path:
        return self._root / batch_id / "input"

    def open(self, batch_id: str, seq: int) -> Spool:
        return Spool(self._root / batch_id, seq, self._database, self._meter)

    def remove(self, batch_id: str) -> None:
        shutil.rmtree(self._root / batch_id, ignore_errors=True)

    def recover(self, active: set[str]) -> None:
        """Removes the spools of batches that have ended."""
        for folder in self._root.iterdir():
            if folder.name not in active:
                shutil.rmtree(folder)


def _spent(result: Result) -> tuple[int, int, int, int]:
    return result.tokens, result.cached_tokens, result.output_tokens, result.reasoning_tokens


def _write(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
