"""A store in a directory: temp file, fsync, hard link, fsync of the directory. No object is ever seen half-written."""

import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from embedfill.errors import MissingError, StoreError
from embedfill.store.base import Entry, check_key

_TEMP = ".tmp-"


class LocalStore:
    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.url = str(self.root)

    def __repr__(self) -> str:
        return f"LocalStore({self.url!r})"

    def create(self, key: str, data: bytes) -> bool:
        target = self._target(key)
        temp = self._temp(target)
        try:
            with temp.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            return _link(temp, target) or self.read(key) == data
        finally:
            temp.unlink(missing_ok=True)

    def put_file(self, key: str, path: Path) -> None:
        target = self._target(key)
        if target.exists():
            return
        temp = self._temp(target)
        try:
            with path.open("rb") as source, temp.open("wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
                file.flush()
                os.fsync(file.fileno())
            _link(temp, target)
        finally:
            temp.unlink(missing_ok=True)

    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        try:
            with (self.root / check_key(key)).open("rb") as file:
                file.seek(start)
                return file.read() if stop is None else file.read(max(stop - start, 0))
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise MissingError(key) from None

    def fetch(self, key: str, path: Path) -> None:
        try:
            shutil.copyfile(self.root / check_key(key), path)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise MissingError(key) from None

    def list(self, prefix: str, start_after: str = "") -> Iterator[Entry]:
        folder = self.root / prefix.rpartition("/")[0]
        for path in _walk(folder):
            key = path.relative_to(self.root).as_posix()
            if key.startswith(prefix) and key > start_after:
                try:
                    stat = path.stat()
                except FileNotFoundError:
                    continue  # pruned meanwhile
                yield Entry(key, stat.st_size, stat.st_mtime_ns / 1e9)

    def delete(self, key: str) -> None:
        (self.root / check_key(key)).unlink(missing_ok=True)

    def local_path(self, key: str) -> Path | None:
        return self.root / check_key(key)

    def _target(self, key: str) -> Path:
        target = self.root / check_key(key)
        try:
            _make_directory(target.parent)
        except OSError as error:
            raise StoreError(
                f"cannot write to the store {self.url}: {error}", "check the path and its rights"
            ) from error
        return target

    def _temp(self, target: Path) -> Path:
        return target.parent / f"{_TEMP}{os.getpid()}-{secrets.token_hex(6)}"


def _walk(folder: Path) -> Iterator[Path]:
    """Files below `folder` in the order of their keys, that is, of their paths with `/` as an ordinary character."""
    try:
        found = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    named = sorted((entry.name + "/" if entry.is_dir() else entry.name, entry) for entry in found)
    for name, entry in named:
        if name.endswith("/"):
            yield from _walk(Path(entry.path))
        elif not name.startswith(_TEMP):
            yield Path(entry.path)


def _link(temp: Path, target: Path) -> bool:
    try:
        os.link(temp, target)
    except FileExistsError:
        return False
    _sync_directory(target.parent)
    return True


def _make_directory(folder: Path) -> None:
    """mkdir -p that survives a power cut: every new folder is synced into its parent."""
    if folder.is_dir():
        return
    _make_directory(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_directory(folder.parent)


def _sync_directory(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
