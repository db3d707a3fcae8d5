"""An engine that dies, or whose disk fails, at a point of its write order: the product's own server, with its system
calls and commits watched.

Every call that changes the disk is a point, named after what it does and the function of the engine that does it:
"before fsync in Files.adopt", "after commit of Batches.create", "half pwrite of output in _write". Nothing of this is in the
product. Forked from a server that has imported everything, so that an engine starts in some 50 ms.
"""

import errno
import multiprocessing
import os
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

from embedfill.engine import service
from embedfill.engine.server import serve
from embedfill.engine.settings import EngineSettings
from embedfill.errors import EmbedfillError
from embedfill.models.base import Vectors
from embedfill.models.static import StaticModel
from tests.crash_worker import Fault
from tests.crash_worker import start as fork

WATCHED = ("open", "fsync", "write", "pwrite", "rename", "replace", "link", "unlink", "rmdir", "mkdir", "ftruncate")
FREEING = {"unlink", "rmdir", "ftruncate"}  # works on a full disk, too
CALL = "call"
SWEEP_S = 0.1  # instead of a minute
_ENGINE = f"{os.sep}embedfill{os.sep}engine{os.sep}"
_DATABASE = f"{_ENGINE}state{os.sep}database.py"


@dataclass(frozen=True)
class Order:
    """What to start. `clock`: a file with the seconds by which the engine's clock is wrong. `pause_s`: how much longer the
    model takes for each input. `room`: the file that says, once it is there, that a failing disk does so no more."""

    settings: dict[str, Any]
    fault: Fault | None = None
    log: Path | None = None
    clock: Path | None = None
    pause_s: float = 0.0
    room: Path | None = None
    environ: dict[str, str] = field(default_factory=dict)


@dataclass
class Trap:
    """Counts the passings of every point (and, for CALL, the calls of the engine's code); springs at the fault's: it
    sends the fault's signal, or, where that is negative, has the disk fail with that error from there on."""

    fault: Fault | None
    log: Path | None = None
    room: Path | None = None
    failing: int = 0
    passed: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def at(self, point: str) -> None:
        with self.lock:
            self.passed[point] += 1
            if self.log is not None and self.passed[point] == 1:
                with self.log.open("a") as file:
                    file.write(point + "\n")
            if self.fault is not None and (point, self.passed[point]) == (self.fault.point, self.fault.nth):
                self.spring(self.fault.signal)

    def spring(self, number: int) -> None:
        if number > 0:
            os.kill(os.getpid(), number)
        self.failing = -number

    def fail(self, name: str) -> None:
        """Raises what a call of this name does on a disk that fails."""
        if self.failing and self.room is not None and self.room.exists():
            self.failing = 0
        if self.failing and not (self.failing == errno.ENOSPC and name in FREEING):
            if name != "commit":
                raise OSError(self.failing, os.strerror(self.failing))
            full = self.failing == errno.ENOSPC
            error = sqlite3.OperationalError(
                "database or disk is full" if full else "attempt to write a readonly database"
            )
            error.sqlite_errorcode = sqlite3.SQLITE_FULL if full else sqlite3.SQLITE_READONLY
            raise error

    def is_next(self, point: str) -> bool:
        """Whether the trap springs when this point is passed; if it does not, it is passed."""
        if self.fault is not None and (point, self.passed[point] + 1) == (self.fault.point, self.fault.nth):
            return True
        self.at(point)
        return False

    def calls(self) -> None:
        """Counts the calls of the engine's code, in every thread that is started from now on."""

        def called(frame: FrameType, event: str, _argument: Any) -> None:
            if event in ("call", "c_call") and _ENGINE in frame.f_code.co_filename:
                self.at(CALL)

        threading.setprofile(called)
        sys.setprofile(called)


class WatchedConnection(sqlite3.Connection):
    """Knows which changes a commit is of."""

    trap: Trap

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._changes: set[str] = set()

    def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
        if sql != "COMMIT":
            self._note()
            return super().execute(sql, *arguments)
        changes, self._changes = sorted(self._changes), set()
        for change in changes:
            self.trap.at(f"before commit of {change}")
        self.trap.fail("commit")
        cursor = super().execute(sql, *arguments)
        for change in changes:
            self.trap.at(f"after commit of {change}")
        return cursor

    def executemany(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
        self._note()
        return super().executemany(sql, *arguments)

    def executescript(self, sql: str) -> sqlite3.Cursor:
        self.trap.at("before the tables are made")
        cursor = super().executescript(sql)
        self.trap.at("after the tables are made")
        return cursor

    def _note(self) -> None:
        """The function that was handed to the database: the last one below its own."""
        frame, name = sys._getframe(2), ""
        while frame is not None and _DATABASE not in frame.f_code.co_filename:
            name, frame = frame.f_code.co_qualname, frame.f_back  # type: ignore[assignment]
        if frame is not None and frame.f_code.co_name != "_commit" and name:
            self._changes.add(name.partition(".<locals>")[0])


def _caller() -> str | None:
    """The engine's function that called, or the nearest above it."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if _ENGINE in frame.f_code.co_filename:
            return frame.f_code.co_qualname.partition(".<locals>")[0]
        frame = frame.f_back
    return None


def _called(name: str, arguments: tuple[Any, ...]) -> str:
    """Results are written to two files of the same function: those are told apart."""
    return f"pwrite of {Path(os.readlink(f'/proc/self/fd/{arguments[0]}')).name}" if name == "pwrite" else name


def _watch(trap: Trap, name: str) -> None:
    real = getattr(os, name)

    def call(*arguments: Any, **options: Any) -> Any:
        caller = _caller()
        if caller is None:
            return real(*arguments, **options)
        what = f"{_called(name, arguments)} in {caller}"
        trap.at(f"before {what}")
        if name != "open" or arguments[1] & os.O_CREAT:
            trap.fail(name)
        if name in ("write", "pwrite") and trap.is_next(f"half {what}"):
            real(arguments[0], arguments[1][: len(arguments[1]) // 2], *arguments[2:])
            trap.at(f"half {what}")
            trap.fail(name)
        result = real(*arguments, **options)
        trap.at(f"after {what}")
        return result

    setattr(os, name, call)


def _bend_time(clock: Path) -> None:
    """The engine's clock is wrong by what the file says now."""
    real = time.time
    time.time = lambda: real() + float(clock.read_text() or 0)


def _slow_down(pause_s: float) -> None:
    real = StaticModel.embed

    def embed(self: StaticModel, inputs: Sequence[Any], *others: Any) -> Vectors:
        time.sleep(pause_s * len(inputs))
        return real(self, inputs, *others)

    StaticModel.embed = embed


def engine(order: Order, announced: Connection) -> None:
    """An engine's whole life, watched."""
    os.environ.update(order.environ)
    trap = Trap(order.fault, order.log, order.room)
    for name in WATCHED:
        _watch(trap, name)
    WatchedConnection.trap = trap
    connect = sqlite3.connect
    sqlite3.connect = lambda *arguments, **options: connect(*arguments, factory=WatchedConnection, **options)
    service._SWEEP_S = SWEEP_S
    if order.clock is not None:
        _bend_time(order.clock)
    if order.pause_s:
        _slow_down(order.pause_s)
    if order.fault is not None and order.fault.point == CALL:
        trap.calls()
    try:
        serve(EngineSettings(**order.settings), announced.send)
    except EmbedfillError as error:  # as the command line does
        sys.stderr.write(f"{error.message}\n")
        sys.exit(error.exit_code)


def start(order: Order) -> tuple[BaseProcess, Connection]:
    """An engine in a process of its own; the connection gives its URL once it answers, and ends when it dies before."""
    ours, announced = multiprocessing.Pipe(duplex=False)
    process = fork(engine, order, announced)
    announced.close()
    return process, ours
