"""Why no work should be sent to the engine, if so. Tells no path, no size and no name; mends nothing."""

import os
import shutil
import threading
import time
from collections.abc import Sequence
from concurrent.futures import TimeoutError as LateError
from pathlib import Path

from embedfill.engine.loop import Loop
from embedfill.engine.room import FAILURES
from embedfill.engine.state.database import Database
from embedfill.errors import EmbedfillError

_ROOM_BYTES = 64 << 20  # less is taken by the next upload
_DATABASE_S = 5.0
_FRESH_S = 1.0  # anybody may ask, as often as they like


class Health:
    """`stopping`: set once the engine takes no new work."""

    def __init__(self, data: Path, database: Database, loops: Sequence[Loop]) -> None:
        self.stopping = threading.Event()
        self._data = data
        self._database = database
        self._loops = loops
        self._looking = threading.Lock()
        self._known: tuple[float, list[str]] = (float("-inf"), [])

    def reasons(self) -> list[str]:
        """Why no work should be sent here; empty where it should. At most a second old, but for the stop."""
        if self.stopping.is_set():
            return ["the engine is stopping"]
        with self._looking:
            looked, found = self._known
            if time.monotonic() - looked > _FRESH_S:
                found = [*self._threads(), *(self._disk() or self._waiting()), *self._writes()]
                self._known = (time.monotonic(), found)
        return found

    def _threads(self) -> list[str]:
        return [f"the thread '{loop.name}' does not run" for loop in self._loops if not loop.alive]

    def _disk(self) -> list[str]:
        try:
            free = shutil.disk_usage(self._data).free
        except OSError:
            return ["the data directory is gone"]
        if not os.access(self._data, os.W_OK):  # also says so of a file system that became read-only
            return ["the data directory cannot be written"]
        return ["the disk of the data directory is nearly full"] if free < _ROOM_BYTES else []

    def _waiting(self) -> list[str]:
        """A quota, or a limit on the size of files: what the disk itself does not tell."""
        waits = any(loop.waiting for loop in self._loops)
        return ["work waits until the data directory can be written again"] if waits else []

    def _writes(self) -> list[str]:
        try:
            self._database.write(lambda _connection: None).result(_DATABASE_S)
        except LateError:
            return [f"the database did not answer within {_DATABASE_S:.0f} s"]
        except (*FAILURES, EmbedfillError):
            return ["the database cannot be written"]
        return []
