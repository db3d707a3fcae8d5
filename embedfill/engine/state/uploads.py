"""Files that come in parts: their bytes under `uploads/`, rows of what is announced and what is there. Knows no HTTP.

A part stands under its id, complete and synced, before its row exists; parts lose their rows with the change that ends
their upload, and their bytes after it. What has no row after a crash is removed.

pending ─→ completed | cancelled | expired
"""

import hashlib
import os
import secrets
import sqlite3
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from embedfill.batchapi.models import File
from embedfill.engine.owners import SEEN
from embedfill.engine.refusal import refused
from embedfill.engine.room import FAILURES
from embedfill.engine.state.database import Database
from embedfill.engine.state.files import Files, new_file, write_all
from embedfill.engine.state.purposes import check_first_line
from embedfill.errors import EmbedfillError, RefusedError
from embedfill.store.local import sync_directory

UPLOAD_BYTES = 8_000_000_000
PART_BYTES = 64 << 20
OPEN_S = 3_600
_PARTS = 10_000
_KNOWN_S = 86_400  # how long an upload that has ended is remembered, so that completing it again gives its file
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class NewUpload:
    """What POST /uploads asks for, checked."""

    bytes: int
    filename: str
    purpose: str
    kept_s: int | None
    owner: str


class Uploads:
    def __init__(self, root: Path, database: Database, files: Files) -> None:
        self._parts = root / "uploads"
        self._database = database
        self._files = files
        self._parts.mkdir(parents=True, exist_ok=True)

    def create(self, new: NewUpload) -> dict[str, Any]:
        now = int(time.time())
        upload_id = "upload_" + secrets.token_hex(16)
        values = (upload_id, new.bytes, now, now + OPEN_S, new.filename, new.purpose, new.kept_s, new.owner)

        def change(connection: sqlite3.Connection) -> dict[str, Any]:
            connection.execute(
                "INSERT INTO uploads (id, bytes, created_at, expires_at, filename, purpose, file_seconds, owner, status)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'pending')",
                values,
            )
            return _to_wire(_row(connection, upload_id, new.owner), None)

        return self._database.write(change).result()

    def new_part(self, upload_id: str, owner: str) -> Path:
        """Where a part of an open upload may be written until it is complete. Raises RefusedError (404, 400)."""
        with self._database.read() as connection:
            _pending(connection, upload_id, owner)
        return self._files.new_part()

    def add(self, upload_id: str, owner: str, part: Path) -> dict[str, Any]:
        """Makes a complete, synced part file a part. Raises RefusedError (404; 400 where the upload has ended, or has
        parts enough)."""
        part_id, size, now = "part_" + secrets.token_hex(16), part.stat().st_size, int(time.time())

        def change(connection: sqlite3.Connection) -> None:
            row = _pending(connection, upload_id, owner)
            query = "SELECT count(*), coalesce(sum(bytes), 0) FROM upload_parts WHERE upload = ?"
            count, held = connection.execute(query, (row["seq"],)).fetchone()
            if count >= _PARTS or held + size > 2 * row["bytes"] + PART_BYTES:  # some may have been sent twice
                raise refused(f"The upload has too many parts: {count}, of {held} bytes.", "data", "too_many_parts")
            connection.execute("INSERT INTO upload_parts VALUES (?, ?, ?, ?)", (part_id, row["seq"], size, now))

        place = self._parts / part_id
        part.rename(place)
        try:
            sync_directory(self._parts)
            self._database.write(change).result()
        except (*FAILURES, EmbedfillError):
            place.unlink()
            raise
        return {"id": part_id, "object": "upload.part", "created_at": now, "upload_id": upload_id}

    def complete(self, upload_id: str, owner: str, part_ids: Sequence[str], md5: str | None) -> dict[str, Any]:
        """Makes the parts, in this order, one file. Done again with the same parts, it gives the same file. Raises
        RefusedError (404, 400); the upload stays as it was then."""
        listed = orjson.dumps(list(part_ids)).decode()
        row = self._get(upload_id, owner)
        if row["completed_with"] != listed:
            try:
                self._make(row, owner, part_ids, md5)
            except RefusedError:
                # Another may just have done the same; a write sees it also where it is not committed yet.
                seen = self._database.write(lambda connection: _row(connection, upload_id, owner)).result()
                if seen["completed_with"] != listed:
                    raise
            row = self._get(upload_id, owner)
        return self._shown(row, owner)

    def cancel(self, upload_id: str, owner: str) -> dict[str, Any]:
        """Gives an upload up, with its parts. One that was cancelled before is left alone; raises RefusedError (404, or
        400 where it has ended otherwise)."""

        def change(connection: sqlite3.Connection) -> list[str]:
            if _status(_row(connection, upload_id, owner)) == "cancelled":
                return []
            return _end(connection, _pending(connection, upload_id, owner), "cancelled")

        self._remove(self._database.write(change).result())
        return self._shown(self._get(upload_id, owner), owner)

    def sweep(self) -> None:
        """Ends what has expired, and forgets what has ended long ago."""
        now = int(time.time())

        def change(connection: sqlite3.Connection) -> list[str]:
            query = "SELECT * FROM uploads WHERE status = 'pending' AND expires_at <= ?"
            rows = connection.execute(query, (now,)).fetchall()
            query = "DELETE FROM uploads WHERE status <> 'pending' AND expires_at <= ?"
            connection.execute(query, (now - _KNOWN_S,))
            return [part_id for row in rows for part_id in _end(connection, row, "expired")]

        self._remove(self._database.write(change).result())

    def recover(self) -> None:
        """Removes what a crash left: parts without a row."""
        with self._database.read() as connection:
            known = {row["id"] for row in connection.execute("SELECT id FROM upload_parts").fetchall()}
        self._remove([path.name for path in self._parts.iterdir() if path.name not in known])

    def _get(self, upload_id: str, owner: str) -> sqlite3.Row:
        with self._database.read() as connection:
            return _row(connection, upload_id, owner)

    def _make(self, row: sqlite3.Row, owner: str, part_ids: Sequence[str], md5: str | None) -> None:
        """The file of an upload, and the end of the upload."""
        listed = orjson.dumps(list(part_ids)).decode()
        file = new_file(row["bytes"], row["filename"], row["purpose"], row["file_seconds"])
        ended: list[str] = []

        def end(connection: sqlite3.Connection) -> None:
            ended.extend(_end(connection, _pending(connection, row["id"], owner), "completed"))
            values = (file.id, listed, row["seq"])
            connection.execute("UPDATE uploads SET file_id = ?, completed_with = ? WHERE seq = ?", values)

        with self._database.read() as connection:
            _check_parts(connection, _pending(connection, row["id"], owner), part_ids)
        whole = self._files.new_part()
        try:
            self._join(part_ids, whole, md5)
            if row["purpose"] == "batch":
                check_first_line(whole)
            self._files.adopt(whole, file, row["owner"], end)
        except RefusedError:
            if (
                self._get(row["id"], owner)["completed_with"] != listed
            ):  # the same, asked for twice at once, is no error
                raise
        finally:
            whole.unlink(missing_ok=True)
        self._remove(ended)

    def _join(self, part_ids: Sequence[str], whole: Path, md5: str | None) -> None:
        """Writes the parts one after the other. Raises RefusedError (400) where they are not what `md5` says."""
        digest = hashlib.md5(usedforsecurity=False)
        try:
            with whole.open("xb", buffering=0) as file:
                for part_id in part_ids:
                    with (self._parts / part_id).open("rb", buffering=0) as part:
                        while block := part.read(_BLOCK):
                            if md5 is not None:
                                digest.update(block)
                            write_all(file.fileno(), block)
                os.fsync(file.fileno())
        except FileNotFoundError:
            raise refused("The upload has ended meanwhile, or lost a part: create a new one.", "part_ids") from None
        if md5 is not None and digest.hexdigest() != md5.lower():
            raise refused(f"The parts have the MD5 {digest.hexdigest()}, not {md5[:64]!r}.", "md5", "md5_mismatch")

    def _shown(self, row: sqlite3.Row, owner: str) -> dict[str, Any]:
        file = None
        with suppress(RefusedError):  # deleted since
            file = self._files.get(row["file_id"], owner) if row["file_id"] else None
        return _to_wire(row, file)

    def _remove(self, part_ids: Sequence[str]) -> None:
        for part_id in part_ids:
            (self._parts / part_id).unlink(missing_ok=True)


def _to_wire(row: sqlite3.Row, file: File | None) -> dict[str, Any]:
    """The API's object."""
    shown = {name: row[name] for name in ("id", "bytes", "created_at", "expires_at", "filename", "purpose")}
    return {**shown, "object": "upload", "status": _status(row), "file": file.model_dump() if file else None}


def _status(row: sqlite3.Row) -> str:
    """Expired as soon as the time has come, whoever has noticed it."""
    return "expired" if row["status"] == "pending" and row["expires_at"] <= time.time() else str(row["status"])


def _row(connection: sqlite3.Connection, upload_id: str, owner: str) -> sqlite3.Row:
    query = f"SELECT * FROM uploads WHERE id = ? AND {SEEN}"  # noqa: S608 - constants
    row: sqlite3.Row | None = connection.execute(query, (upload_id, owner)).fetchone()
    if row is None:
        raise RefusedError(404, "not_found", f"No such Upload object: {upload_id}", param="upload_id")
    return row


def _pending(connection: sqlite3.Connection, upload_id: str, owner: str) -> sqlite3.Row:
    """The row of an upload that is open; raises RefusedError (404, 400) for any other."""
    row = _row(connection, upload_id, owner)
    if _status(row) != "pending":
        message = f"The upload has the status '{_status(row)}'; only a pending one takes parts or ends."
        raise refused(message, "upload_id", "invalid_upload_status")
    return row


def _check_parts(connection: sqlite3.Connection, row: sqlite3.Row, part_ids: Sequence[str]) -> None:
    """Raises RefusedError (400) unless these are parts of the upload, each once, and all of its bytes."""
    query = "SELECT id, bytes FROM upload_parts WHERE upload = ?"
    sizes: dict[str, int] = dict(connection.execute(query, (row["seq"],)).fetchall())
    unknown = next((part_id for part_id in part_ids if part_id not in sizes), None)
    if unknown is not None:
        raise refused(f"The upload has no part {unknown[:100]!r}.", "part_ids")
    if len(set(part_ids)) < len(part_ids):
        raise refused("A part is listed twice.", "part_ids")
    held = sum(sizes[part_id] for part_id in part_ids)
    if held != row["bytes"]:
        raise refused(f"The parts have {held} bytes in all; the upload was announced with {row['bytes']}.", "part_ids")


def _end(connection: sqlite3.Connection, row: sqlite3.Row, status: str) -> list[str]:
    """Part of a change: the upload ends and has no parts any more. Whose bytes can go is returned."""
    connection.execute("UPDATE uploads SET status = ? WHERE seq = ?", (status, row["seq"]))
    query = "DELETE FROM upload_parts WHERE upload = ? RETURNING id"
    return [part["id"] for part in connection.execute(query, (row["seq"],)).fetchall()]
