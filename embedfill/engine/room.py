"""A data directory that cannot be written any more: tells such failures from others, and says what to do about them."""

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from embedfill.errors import RefusedError, WorldError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_BROKEN = (errno.EROFS, errno.EIO)
_SQLITE = {  # primary codes; SQLite keeps the system's own error to itself
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_READONLY: errno.EROFS,
}
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
FAILURES = (OSError, sqlite3.Error)  # what may be such a failure


def cause(error: BaseException) -> int | None:
    """The system's number for why a directory could not be written; None where `error` says nothing of that kind."""
    if isinstance(error, sqlite3.Error):
        return _SQLITE.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)
    number = error.errno if isinstance(error, OSError) else None
    return number if number in (*_FULL, *_BROKEN) else None


def world_error(error: BaseException, data: Path) -> WorldError | None:
    """The end of an engine on `data`, explained; None for an error of another kind."""
    number = cause(error)
    if number is None:
        return _unusable(error, data)
    return WorldError(message(number, data), f"{remedy(number, data)}, then start the engine again; nothing is lost")


def _unusable(error: BaseException, data: Path) -> WorldError | None:
    """What no room would help."""
    if isinstance(error, PermissionError):
        hint = f"see that everything in {data} belongs to the user that runs the engine"
        return WorldError(f"{error.filename or data}: {error.strerror}", hint)
    if not isinstance(error, sqlite3.Error):
        return None
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in _DAMAGED:
        hint = "bring the whole directory back from a copy, or give another with --data"
        return WorldError(f"the engine's database {data / 'engine.db'} is damaged: {error}", hint)
    if code == sqlite3.SQLITE_CANTOPEN:
        hint = "see that it is a file that the user who runs the engine can read and write"
        return WorldError(f"the engine's database {data / 'engine.db'} cannot be opened", hint)
    return None


def refusal(error: BaseException, data: Path) -> RefusedError | None:
    """The answer to a request that could not be written down; None for an error of another kind."""
    number = cause(error)
    if number is None:
        return None
    text = f"{message(number, data)}: {remedy(number, data)}, then send the request again; nothing is lost."
    return RefusedError(507, "insufficient_storage", text[:1].upper() + text[1:])


@contextmanager
def explained(data: Path) -> Iterator[None]:
    """Raises WorldError in place of an error that says that `data` cannot be written."""
    try:
        yield
    except FAILURES as error:
        known = world_error(error, data)
        if known is None:
            raise
        raise known from error


def message(number: int, data: Path) -> str:
    """What is wrong with `data`, by the `cause`."""
    return f"the engine cannot write to its data directory {data} ({os.strerror(number)})"


def remedy(number: int, data: Path) -> str:
    """What can be done about it."""
    if number in _FULL:
        return f"free some space on the disk of {data}"
    return f"see that the disk of {data} has room and can be written"
