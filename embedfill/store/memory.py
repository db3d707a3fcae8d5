"""A store in this process's memory, for tests and trials. Its clock is the process's own, or
the one that it is given."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from embedfill.errors import MissingError
from embedfill.store.base import Entry, check_key


class MemoryStore:
    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self.url = "memory://"
        self._now = now
        self._objects: dict[str, tuple[bytes, float]] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"MemoryStore({len(self._objects)} objects)"

    def create(self, key: str, data: bytes) -> bool:
        with self._lock:
            held = self._objects.setdefault(check_key(key), (bytes(data), self._now()))
        return held[0] == data

    def put_file(self, key: str, path: Path) -> None:
        self.create(key, path.read_bytes())

    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        try:
            return self._objects[check_key(key)][0][start:stop]
        except KeyError:
            raise MissingError(key) from None

    def fetch(self, key: str, path: Path) -> None:
        path.write_bytes(self.read(key))

    def list(self, prefix: str, start_after: str = "") -> Iterator[Entry]:
        with self._lock:
            held = sorted((key, value) for key, value in self._objects.items() if key.startswith(prefix))
        for key, (data, modified) in held:
            if key > start_after:
                yield Entry(key, len(data), modified)

    def delete(self, key: str) -> None:
        with self._lock:
            self._objects.pop(check_key(key), None)

    def local_path(self, key: str) -> Path | None:
        check_key(key)
        return None
