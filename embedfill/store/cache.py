"""A disposable folder of this machine: copies of immutable objects, scratch space, and remembered facts.

Deleting it costs time, never a result. Claims, plans and publications are never cached: they decide something.
"""

import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from embedfill.errors import MissingError, StoreError
from embedfill.ids import canonical
from embedfill.store.base import Store


class Cache:
    def __init__(self, root: Path, store: Store) -> None:
        self.root = root
        self.store = store

    def __repr__(self) -> str:
        return f"Cache({str(self.root)!r})"

    def path(self, key: str) -> Path:
        """An immutable object as a local file: the store's own where it is a directory, else a copy.

        Raises MissingError.
        """
        own = self.store.local_path(key)
        if own is not None:
            if not own.is_file():
                raise MissingError(key)
            return own
        copy = self.root / "objects" / key
        if not copy.exists():
            self._place(copy, lambda temp: self._fetch(key, temp))
        return copy

    def forget(self, key: str) -> None:
        """Drops the copy of an object, if there is one: it was found to be damaged."""
        (self.root / "objects" / key).unlink(missing_ok=True)

    def read(self, key: str) -> bytes:
        """An immutable object's bytes. Raises MissingError."""
        if self.store.local_path(key) is not None:
            return self.store.read(key)
        return self.path(key).read_bytes()

    def json(self, key: str) -> Any:  # noqa: ANN401 - what the object holds
        """Raises MissingError, and StoreError naming the object where it is damaged."""
        return parse_json(key, self.read(key))

    def scratch(self, *parts: str) -> Path:
        """A folder for work in progress, made if absent. Whoever uses it removes what is done with."""
        folder = self.root.joinpath("scratch", *parts)
        with self._writing():
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def remember(self, name: str, value: object) -> None:
        """Keeps a fact under a name; a later value takes its place."""
        data = canonical(value)
        self._place(self.root / "facts" / name, lambda temp: temp.write_bytes(data))

    def recall(self, name: str) -> Any:  # noqa: ANN401
        """The fact of that name, or None where there is none (or it cannot be read: it is only a cache)."""
        try:
            return orjson.loads((self.root / "facts" / name).read_bytes())
        except (OSError, orjson.JSONDecodeError):
            return None

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Holds the scratch space for a run. Whoever comes when nobody else is there first throws away what killed
        runs left, but for downloads: those are gone on with."""
        self.scratch()
        with (self.root / "scratch.lock").open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for folder in self.scratch().iterdir():
                    if folder.name != "outputs":
                        shutil.rmtree(folder, ignore_errors=True)
            except BlockingIOError:
                pass
            fcntl.flock(lock, fcntl.LOCK_SH)
            yield

    def _fetch(self, key: str, temp: Path) -> None:
        self.store.fetch(key, temp)
        # A copy is trusted by its name for ever: it must not turn up empty under it after a power cut.
        with temp.open("rb") as file:
            os.fsync(file.fileno())

    def _place(self, target: Path, write: Callable[[Path], object]) -> None:
        temp = target.parent / f".tmp-{os.getpid()}-{secrets.token_hex(4)}"
        with self._writing():
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                write(temp)
                temp.replace(target)
            finally:
                temp.unlink(missing_ok=True)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            hint = "free some space there, or set [cache] dir to another place"
            raise StoreError(f"cannot write to the cache {self.root}: {error.strerror or error}", hint) from error


def parse_json(key: str, data: bytes) -> Any:  # noqa: ANN401 - what the object holds
    """An object's JSON. Raises StoreError naming it where it is damaged."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        hint = "bring it back from a backup; nothing else of the store is touched"
        raise StoreError(f"the store's object {key} is damaged: {error}", hint) from None


def default_root() -> Path:
    """Where caches go unless configured: `$XDG_CACHE_HOME/embedfill`, else `~/.cache/embedfill`."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "embedfill"
