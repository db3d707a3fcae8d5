"""A file that appears under its name when it is whole, written beside it meanwhile. Removes what killed writers left."""

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def whole(out: Path) -> Iterator[Path]:
    """The path to write to; its file takes the place of `out` at the end of the context, unless that raises. A folder
    `parts_of` that path goes with it. Raises OSError where there is no writing.

    Whoever writes holds a lock on the file, which ends with its process: what is not locked was left behind.
    """
    _sweep(out)
    temp, lock = _locked(out)
    try:
        yield temp
        os.fsync(lock)
        temp.replace(out)
    finally:
        _remove(temp)
        os.close(lock)


def parts_of(temp: Path) -> Path:
    """Where what belongs to an unfinished file may lie meanwhile."""
    return temp.with_suffix(".parts")


def _locked(out: Path) -> tuple[Path, int]:
    """A new file beside `out`, and the descriptor that holds its lock."""
    while True:
        temp = out.with_name(f"{_prefix(out)}{secrets.token_hex(8)}")
        lock = os.open(temp, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        with suppress(OSError):  # without locks, as on some network file systems, nothing is ever swept
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(lock).st_nlink:
            return temp, lock
        os.close(lock)  # swept between its making and its locking


def _sweep(out: Path) -> None:
    for path in out.parent.iterdir():
        if path.name.startswith(_prefix(out)):
            with suppress(OSError), path.open("r+b") as left:
                fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(path)


def _remove(temp: Path) -> None:
    """The file last: what is left after a kill in between is found by it."""
    shutil.rmtree(parts_of(temp), ignore_errors=True)
    temp.unlink(missing_ok=True)


def _prefix(out: Path) -> str:
    return f".{out.name}.part-"
