"""The engine's data directory: its lock, the port it last had, and the notice where it can be reached.

Only one engine runs on a directory. Does not know what else lies in it.
"""

import fcntl
import os
from pathlib import Path
from typing import IO

import orjson

from embedfill.errors import WorldError


class Folder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: IO[bytes] | None = None
        self._users: IO[bytes] | None = None

    def lock(self) -> None:
        """Takes the directory, for as long as this process lives. Raises WorldError where another engine has it, or
        it cannot be written."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / "lock").open("ab")
        except OSError as error:
            message = f"{self.path} cannot be the engine's directory: {error.strerror}"
            raise WorldError(message, "give a directory that can be written with --data") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise WorldError(
                f"another engine runs on {self.path}",
                f"use it ({self.path / 'engine.json'} says where it is), stop it, or give another --data",
            ) from None
        self._lock = lock
        (self.path / "engine.json").unlink(missing_ok=True)  # of an engine that was killed

    def unused(self) -> bool:
        """True once nobody holds the users' lock. From then on we hold it, so that a new user waits until we are gone."""
        if self._users is None:
            users = (self.path / "users.lock").open("ab")
            try:
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                users.close()
                return False
            self._users = users
        return True

    def last_port(self) -> int:
        """The port of the engine that ran here last; 0 where there was none."""
        try:
            return int((self.path / "port").read_text())
        except (FileNotFoundError, ValueError):
            return 0

    def announce(self, port: int, url: str) -> None:
        """Says where this engine is, to whoever looks into the directory."""
        self._replace("port", str(port).encode())
        self._replace("engine.json", orjson.dumps({"pid": os.getpid(), "port": port, "url": url}))

    def release(self) -> None:
        """Withdraws the notice, gives the directory back, and only then lets waiting users on."""
        if self._lock is not None:
            (self.path / "engine.json").unlink(missing_ok=True)
            self._lock.close()
        if self._users is not None:
            self._users.close()

    def _replace(self, name: str, data: bytes) -> None:
        temp = self.path / f".{name}"  # ours alone; what a crash leaves of it is written over
        temp.write_bytes(data)
        temp.replace(self.path / name)
