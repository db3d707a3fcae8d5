"""Uploaded files and batch outputs: bytes under `files/`, one row each. Never looks into a file.

A file stands under its id, complete and synced, before its row exists; what has no row after a crash is removed.
"""

import os
import re
import secrets
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from embedfill.batchapi.models import File, Page
from embedfill.engine.owners import SEEN
from embedfill.engine.refusal import refused
from embedfill.engine.room import FAILURES
from embedfill.engine.state.database import Database
from embedfill.errors import EmbedfillError, RefusedError
from embedfill.store.local import sync_directory

KEPT_S = 30 * 86_400  # how long batch files and outputs are kept, unless asked otherwise
_COLUMNS = "id, bytes, created_at, filename, purpose, expires_at"
_ALIVE = "(expires_at IS NULL OR expires_at > ?)"
_NAME_CHARS = 255


class Files:
    def __init__(self, root: Path, database: Database) -> None:
        self._files = root / "files"
        self._parts = root / "parts"
        self._database = database
        for folder in (self._files, self._parts):
            folder.mkdir(parents=True, exist_ok=True)

    def path(self, file_id: str) -> Path:
        return self._files / file_id

    def new_part(self) -> Path:
        """Where an upload may be written until it is complete."""
        return self._parts / secrets.token_hex(12)

    def adopt(
        self, part: Path, file: File, owner: str, also: Callable[[sqlite3.Connection], None] | None = None
    ) -> File:
        """Makes a complete, synced part file a file. Returns once it would survive a power failure. What must change in
        the database with it is `also`; where that raises, there is no file."""

        def change(connection: sqlite3.Connection) -> None:
            insert(connection, file, owner)
            if also is not None:
                also(connection)

        part.rename(self.path(file.id))
        try:
            sync_directory(self._files)
            self._database.write(change).result()
        except (*FAILURES, EmbedfillError):  # most likely a full disk: give the room back
            self.path(file.id).unlink()
            raise
        return file

    def link(self, source: Path, file: File) -> None:
        """Gives synced bytes the name of a file whose row is about to be made. May be done again."""
        with suppress(FileExistsError):  # ids are never used twice: it was us, and not everything of it succeeded
            self.path(file.id).hardlink_to(source)
        sync_directory(self._files)

    def get(self, file_id: str, owner: str) -> File:
        """Raises RefusedError (404), also for another owner's."""
        with self._database.read() as connection:
            row = connection.execute(
                f"SELECT {_COLUMNS} FROM files WHERE id = ? AND {_ALIVE} AND {SEEN}",  # noqa: S608 - constants
                (file_id, int(time.time()), owner),
            ).fetchone()
        if row is None:
            raise _missing(file_id)
        return File(**dict(row))

    def page(self, purpose: str | None, after: str | None, limit: int, owner: str, newest_first: bool = True) -> Page:
        """One page. `after` is the id of the last file seen; an unknown one gives an empty page."""
        sign, order = ("<", "DESC") if newest_first else (">", "ASC")
        where: list[str] = [_ALIVE, SEEN]
        values: list[object] = [int(time.time()), owner]
        if purpose is not None:
            where.append("purpose = ?")
            values.append(purpose)
        if after is not None:
            where.append(f"seq {sign} (SELECT seq FROM files WHERE id = ? AND {SEEN})")  # noqa: S608 - constants
            values += [after, owner]
        query = f"SELECT {_COLUMNS} FROM files WHERE {' AND '.join(where)} ORDER BY seq {order} LIMIT ?"  # noqa: S608
        with self._database.read() as connection:
            rows = connection.execute(query, (*values, limit + 1)).fetchall()
        return to_page([File(**dict(row)).model_dump() for row in rows], limit)

    def delete(self, file_id: str, owner: str) -> None:
        """Raises RefusedError (404), also for another owner's."""
        query = f"DELETE FROM files WHERE id = ? AND {SEEN}"  # noqa: S608 - constants

        def change(connection: sqlite3.Connection) -> None:
            if not connection.execute(query, (file_id, owner)).rowcount:
                raise _missing(file_id)

        self._database.write(change).result()
        self.path(file_id).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Deletes what has expired."""
        with self._database.read() as connection:
            query = "SELECT id, owner FROM files WHERE expires_at <= ?"
            rows = connection.execute(query, (int(time.time()),)).fetchall()
        for row in rows:
            with suppress(RefusedError):  # somebody was faster
                self.delete(row["id"], row["owner"])

    def recover(self) -> None:
        """Removes what a crash left: unfinished uploads, and files without a row."""
        for part in self._parts.iterdir():
            part.unlink()
        with self._database.read() as connection:
            known = {row["id"] for row in connection.execute("SELECT id FROM files").fetchall()}
        for path in self._files.iterdir():
            if path.name not in known:
                path.unlink()


def new_file(size: int, filename: str, purpose: str, expires_after_s: int | None) -> File:
    """A File with an id of its own, created now."""
    now = int(time.time())
    kept = expires_after_s or (KEPT_S if purpose in ("batch", "batch_output") else None)
    return File(
        id="file-" + secrets.token_hex(12),
        bytes=size,
        created_at=now,
        filename=filename,
        purpose=purpose,
        expires_at=now + kept if kept else None,
    )


def plain_name(name: str, param: str) -> str:
    """A client's name for a file as others may use it for theirs: no folders, no control characters. Raises RefusedError
    (400) where it is too long."""
    plain = re.sub(r"[\x00-\x1f\x7f]", "", re.split(r"[/\\]", name)[-1])
    if len(plain) > _NAME_CHARS:
        raise refused(f"The file's name has {len(plain)} characters; at most {_NAME_CHARS} are allowed.", param)
    return plain if plain.strip(". ") else "upload"


def write_all(descriptor: int, data: bytes) -> None:
    """Blocks until the system has all of it."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def insert(connection: sqlite3.Connection, file: File, owner: str) -> None:
    """Part of a change: the row of a file whose bytes are already in place."""
    connection.execute(
        "INSERT INTO files (id, bytes, created_at, filename, purpose, expires_at, owner)"
        " VALUES (:id, :bytes, :created_at, :filename, :purpose, :expires_at, :owner)",
        {**file.model_dump(), "owner": owner},
    )


def to_page(rows: list[dict[str, object]], limit: int) -> Page:
    """A page from up to `limit` + 1 objects; the one too many says that there are more."""
    data = rows[:limit]
    return Page(
        data=data,
        first_id=str(data[0]["id"]) if data else None,
        last_id=str(data[-1]["id"]) if data else None,
        has_more=len(rows) > limit,
    )


def _missing(file_id: str) -> RefusedError:
    return RefusedError(404, "not_found", f"No such File object: {file_id}", param="id")
