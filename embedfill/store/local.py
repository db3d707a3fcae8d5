"""A store in a directory: temp file, fsync, hard link, fsync of the directory. No object is ever seen half-written.

Whoever is killed while writing may leave a `.tmp-` file, which is never listed nor read.
"""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from embedfill.errors import MissingError, StoreError
from embedfill.store.base import Entry, check_key

_TEMP = ".tmp-"
_BLOCK = 1 << 20
_ABSENT = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
_HINTS = {
    errno.ENOSPC: "free some space on its disk, then run again",
    errno.EDQUOT: "the disk quota is used up: free some space, then run again",
    errno.EFBIG: "a limit on the size of files is in force (ulimit -f)",
    errno.EROFS: "its file system is mounted read-only",
    errno.EACCES: "check who may write there",
    errno.EPERM: "check who may write there; a file system without hard links cannot hold a store",
    errno.EOPNOTSUPP: "a file system without hard links cannot hold a store: choose another place",
    errno.EMFILE: "too many files are open (ulimit -n)",
    errno.EIO: "the disk reports an error: check it before going on",
}


class _FileEntry(Entry):
    """A file that is asked for its size and time only when they are wanted: to ask costs more than all else of a
    listing. Raises MissingError then where it was removed meanwhile."""

    __slots__ = ("_path",)
    _path: str
    __setattr__ = object.__setattr__  # a frozen class's own would take a third of a listing's time

    def __init__(self, key: str, path: str) -> None:
        self.key = key  # type: ignore[misc]
        self._path = path

    @property
    def size(self) -> int:
        return self._stat().st_size

    @property
    def modified(self) -> float:
        return self._stat().st_mtime_ns / 1e9

    def _stat(self) -> os.stat_result:
        try:
            return os.stat(self._path)  # noqa: PTH116 - a Path takes as long again
        except FileNotFoundError:
            raise MissingError(self.key) from None


class LocalStore:
    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.url = str(self.root)

    def __repr__(self) -> str:
        return f"LocalStore({self.url!r})"

    def create(self, key: str, data: bytes) -> bool:
        target = self.root / check_key(key)
        with self._world(key), _new_file(target) as (file, temp):
            file.write(data)
            _sync(file)
            return _link(temp, target) or self.read(key) == data

    def put_file(self, key: str, path: Path) -> None:
        target = self.root / check_key(key)
        if target.is_file() and target.stat().st_size == path.stat().st_size:
            return
        with path.open("rb") as source, self._world(key), _new_file(target) as (file, temp):
            shutil.copyfileobj(source, file, _BLOCK)
            _sync(file)
            temp.replace(target)  # of another length, what stands there is damaged: these are the bytes of that name
            sync_directory(target.parent)

    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        with self._world(key), self._opened(key) as file:
            file.seek(start)
            return file.read() if stop is None else file.read(max(stop - start, 0))

    def fetch(self, key: str, path: Path) -> None:
        with self._world(key), self._opened(key) as file, path.open("wb") as copy:
            shutil.copyfileobj(file, copy, _BLOCK)

    def list(self, prefix: str, start_after: str = "") -> Iterator[Entry]:
        folder = prefix.rpartition("/")[0]
        for key, path in self._walk(f"{folder}/" if folder else "", str(self.root / folder)):
            if key.startswith(prefix) and key > start_after:
                yield _FileEntry(key, path)

    def delete(self, key: str) -> None:
        with self._world(key):
            try:
                (self.root / check_key(key)).unlink()
            except _ABSENT:
                return

    def local_path(self, key: str) -> Path | None:
        return self.root / check_key(key)

    def _opened(self, key: str) -> BinaryIO:
        try:
            return (self.root / check_key(key)).open("rb")
        except _ABSENT:
            raise MissingError(key) from None

    def _walk(self, above: str, folder: str) -> Iterator[tuple[str, str]]:
        """Keys (each begins with `above`) and paths of the files below `folder`, in the order of the keys, that is, of
        their paths with `/` as an ordinary character."""
        with self._world():
            try:
                with os.scandir(folder) as found:
                    names = sorted([f"{entry.name}/" if entry.is_dir() else entry.name for entry in found])
            except _ABSENT:
                return
        for name in names:
            if name.endswith("/"):
                yield from self._walk(above + name, f"{folder}/{name[:-1]}")
            elif not name.startswith(_TEMP):
                yield above + name, f"{folder}/{name}"

    @contextmanager
    def _world(self, key: str = "") -> Iterator[None]:
        """The one place where the system's errors become ours."""
        try:
            yield
        except OSError as error:
            place = error.filename or (self.root / key)
            hint = _HINTS.get(error.errno or 0, "check the path and its rights")
            raise StoreError(
                f"the store {self.url} cannot be used: {error.strerror or error}: {place}", hint
            ) from error


@contextmanager
def _new_file(target: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A temp file beside `target`, gone at the end."""
    _make_directory(target.parent)
    temp = target.parent / f"{_TEMP}{os.getpid()}-{secrets.token_hex(6)}"
    try:
        with temp.open("xb") as file:
            yield file, temp
    finally:
        temp.unlink(missing_ok=True)


def _link(temp: Path, target: Path) -> bool:
    try:
        os.link(temp, target)
    except FileExistsError:
        return False
    sync_directory(target.parent)
    return True


def _make_directory(folder: Path) -> None:
    """mkdir -p that survives a power cut: every new folder is synced into its parent."""
    if folder.is_dir():
        return
    _make_directory(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_directory(folder.parent)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def sync_directory(folder: Path) -> None:
    """The names in a folder are safe after this."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
