"""Batches as rows: creation, listing, and every change of status as one compare-and-set. Runs nothing itself.

validating ─→ in_progress ─→ finalizing ─→ completed
    │  │          │   └────────────────────→ expired
    │  └──────────┴─→ cancelling ──────────→ cancelled
    └─→ failed
"""

import secrets
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from embedfill.batchapi.models import (
    ENDED,
    Batch,
    BatchError,
    BatchErrors,
    File,
    InputDetails,
    OutputDetails,
    Page,
    RequestCounts,
    Usage,
)
from embedfill.engine.owners import ANYBODY, SEEN
from embedfill.engine.state import files
from embedfill.engine.state.allowance import UNLIMITED, Allowance
from embedfill.engine.state.database import Database
from embedfill.engine.telemetry.meter import UNMETERED, Meter
from embedfill.errors import RefusedError

WINDOW_S = 86_400
_BRIEF_BYTES = 65_536  # of errors, in a listing; a batch alone shows them all
_BRIEF_ERRORS = 100
_STAMPS = (
    "created_at",
    "in_progress_at",
    "finalizing_at",
    "completed_at",
    "failed_at",
    "expired_at",
    "cancelling_at",
    "cancelled_at",
)
_LATEST = "max(?, " + ", ".join(f"coalesce({name}, 0)" for name in _STAMPS) + ")"  # timestamps never run back


@dataclass(frozen=True, slots=True)
class NewBatch:
    """What POST /batches asks for, checked."""

    endpoint: str
    input_file_id: str
    completion_window: str
    metadata: dict[str, str] | None
    output_seconds: int | None
    idempotency_key: str | None
    request: str  # the body, canonical: what the same key must come with again
    owner: str = ANYBODY
    window_s: int = WINDOW_S


class Active(NamedTuple):
    """What the worker must know of a batch that has not ended. (Thousands may be looked at every second.)"""

    seq: int
    id: str
    status: str
    model: str | None
    endpoint: str
    input_file_id: str
    expires_at: int
    total: int
    output_seconds: int | None
    owner: str = ANYBODY


class Batches:
    """`ended` is part of the change that ends a batch: it is given the connection, the batch's id and its status."""

    def __init__(
        self,
        database: Database,
        allowance: Allowance = UNLIMITED,
        ended: Callable[[sqlite3.Connection, str, str], None] = lambda *_: None,
        meter: Meter = UNMETERED,
    ) -> None:
        self._database = database
        self._allowance = allowance
        self._ended = ended
        self._meter = meter

    def create(self, new: NewBatch) -> Batch:
        """A new batch, on disk when this returns. With a known idempotency key: the batch that it made. Raises
        RefusedError: 409 where that had another body, 429 where no more are allowed this hour."""
        batch_id = "batch_" + secrets.token_hex(16)

        def change(connection: sqlite3.Connection) -> Batch:
            known = connection.execute("SELECT * FROM batches WHERE idempotency_key = ?", (_own_key(new),)).fetchone()
            if known is None:
                self._allowance.check_rate(connection, new.owner)
                _insert(connection, batch_id, new)
            elif known["request"] != new.request:
                raise RefusedError(409, "idempotency_error", "This Idempotency-Key was used with another request body.")
            return to_wire(_row(connection, known["id"] if known else batch_id, new.owner))

        batch = self._database.write(change).result()
        if batch.id == batch_id:
            self._meter.batch(batch_id, batch.status)
        return batch

    def get(self, batch_id: str, owner: str) -> Batch:
        """Raises RefusedError (404), also for another owner's."""
        with self._database.read() as connection:
            return to_wire(_row(connection, batch_id, owner))

    def page(self, after: str | None, limit: int, owner: str) -> Page:
        """One page, newest first. An unknown `after` gives an empty page. Very many errors are not all in it."""
        older = f"AND seq < (SELECT seq FROM batches WHERE id = ? AND {SEEN})" if after is not None else ""  # noqa: S608
        query = f"SELECT * FROM batches WHERE {SEEN} {older} ORDER BY seq DESC LIMIT ?"  # noqa: S608 - constants
        values = (owner, limit + 1) if after is None else (owner, after, owner, limit + 1)
        with self._database.read() as connection:
            rows = connection.execute(query, values).fetchall()
        return files.to_page([to_wire(row, brief=True).model_dump() for row in rows], limit)

    def active(self) -> list[Active]:
        """Batches that have not ended, oldest first."""
        return self._select("status IN ('validating', 'in_progress', 'finalizing', 'cancelling')")

    def unvalidated(self) -> list[Active]:
        """Batches whose input has not been checked yet, oldest first."""
        return self._select("status IN ('validating', 'cancelling') AND model IS NULL")

    def _select(self, where: str) -> list[Active]:
        query = f"SELECT {', '.join(Active._fields)} FROM batches WHERE {where} ORDER BY seq"  # noqa: S608 - constants
        with self._database.read() as connection:
            return [Active._make(row) for row in connection.execute(query).fetchall()]

    def cancel(self, batch_id: str, owner: str) -> Batch:
        """Asks for the end of a batch. One that is being cancelled, or finalizes, is left alone; raises RefusedError
        (404, or 409 where it has ended otherwise)."""

        def change(connection: sqlite3.Connection) -> tuple[Batch, bool]:
            _row(connection, batch_id, owner)
            moved = _move(connection, batch_id, ("validating", "in_progress"), "cancelling")
            row = _row(connection, batch_id, owner)
            if row["status"] in ENDED - {"cancelled"}:
                message = f"Cannot cancel a batch with status '{row['status']}'."
                raise RefusedError(409, "invalid_batch_status", message)
            return to_wire(row), moved

        batch, moved = self._database.write(change).result()
        if moved:
            self._meter.batch(batch_id, batch.status)
        return batch

    def accept(self, batch_id: str, model: str, total: int, tokens: int = 0) -> bool:
        """Validation found nothing: the batch may run (or, cancelled meanwhile, may be written off line by line). False
        where its requests and prompt tokens do not fit beside what is enqueued: then it has failed."""

        def change(connection: sqlite3.Connection) -> str | None:
            owner, status = _owner(connection, batch_id)
            over = self._allowance.overrun(connection, owner, model, total, tokens) if status == "validating" else None
            if over is not None:
                return self._fail(connection, batch_id, [over], model)
            query = "UPDATE batches SET model = ?, total = ?, enqueued_tokens = ? WHERE id = ?"
            connection.execute(query, (model, total, tokens, batch_id))
            return "in_progress" if _move(connection, batch_id, ("validating",), "in_progress") else None

        return self._told(batch_id, change) != "failed"

    def refuse(self, batch_id: str, errors: Sequence[BatchError], model: str | None) -> None:
        """Validation found these errors: nothing runs. A batch that is being cancelled ends cancelled instead."""
        self._told(batch_id, lambda connection: self._fail(connection, batch_id, errors, model))

    def finalize(self, batch_id: str) -> bool:
        """All lines have results. False where the batch was cancelled meanwhile."""

        def change(connection: sqlite3.Connection) -> str | None:
            return "finalizing" if _move(connection, batch_id, ("in_progress", "finalizing"), "finalizing") else None

        return self._told(batch_id, change) is not None

    def end(self, batch_id: str, before: str, after: str, output: File | None, error: File | None) -> bool:
        """The last change of a batch, with its files, whole or not at all. False where it is no longer `before`."""

        def change(connection: sqlite3.Connection) -> str | None:
            if not _move(connection, batch_id, (before,), after):
                return None
            owner, _status = _owner(connection, batch_id)
            for file in (output, error):
                if file is not None:
                    files.insert(connection, file, owner)
            ids = (output and output.id, error and error.id, batch_id)
            connection.execute("UPDATE batches SET output_file_id = ?, error_file_id = ? WHERE id = ?", ids)
            self._ended(connection, batch_id, after)
            return after

        return self._told(batch_id, change) is not None

    def _fail(
        self, connection: sqlite3.Connection, batch_id: str, errors: Sequence[BatchError], model: str | None
    ) -> str | None:
        """Part of a change; the status that it brings about, if any."""
        if _move(connection, batch_id, ("validating",), "failed"):
            values = (_dumps(errors), _brief(errors), model, batch_id)
            connection.execute("UPDATE batches SET errors = ?, errors_brief = ?, model = ? WHERE id = ?", values)
            after = "failed"
        elif _move(connection, batch_id, ("cancelling",), "cancelled"):
            after = "cancelled"
        else:
            return None
        self._ended(connection, batch_id, after)
        return after

    def _told(self, batch_id: str, change: Callable[[sqlite3.Connection], str | None]) -> str | None:
        """The status that a change has brought about, on disk; None for none."""
        status = self._database.write(change).result()
        if status is not None:
            self._meter.batch(batch_id, status)
        return status


def to_wire(row: sqlite3.Row, brief: bool = False) -> Batch:
    """The API's object: every key present, null where unset."""
    values: dict[str, Any] = {name: row[name] for name in row.keys() if name in Batch.model_fields}  # noqa: SIM118
    found = (row["errors_brief"] if brief else None) or row["errors"]
    errors = orjson.loads(found) if found else None
    values["errors"] = BatchErrors(data=[BatchError(**error) for error in errors]) if errors else None
    values["metadata"] = orjson.loads(row["metadata"]) if row["metadata"] else None
    values["request_counts"] = RequestCounts(total=row["total"], completed=row["completed"], failed=row["failed"])
    values["usage"] = _usage(row)
    return Batch(**values)


def _dumps(errors: Sequence[BatchError]) -> str:
    return orjson.dumps([error.model_dump() for error in errors]).decode()


def _brief(errors: Sequence[BatchError]) -> str | None:
    """What a listing shows of very many errors; None where they are not that many."""
    if len(errors) <= _BRIEF_ERRORS or len(_dumps(errors)) <= _BRIEF_BYTES:
        return None
    more = f"{len(errors) - _BRIEF_ERRORS} more lines are bad: the batch itself, not in a list, names them all."
    return _dumps([*errors[:_BRIEF_ERRORS], BatchError(code="more_errors", message=more)])


def _usage(row: sqlite3.Row) -> Usage:
    return Usage(
        input_tokens=row["input_tokens"],
        input_tokens_details=InputDetails(cached_tokens=row["cached_tokens"]),
        output_tokens=row["output_tokens"],
        output_tokens_details=OutputDetails(reasoning_tokens=row["reasoning_tokens"]),
        total_tokens=row["input_tokens"] + row["output_tokens"],
    )


def _insert(connection: sqlite3.Connection, batch_id: str, new: NewBatch) -> None:
    now = int(time.time())
    connection.execute(
        "INSERT INTO batches (id, endpoint, input_file_id, completion_window, status, created_at, expires_at, metadata,"
        " output_seconds, idempotency_key, request, owner) VALUES (?, ?, ?, ?, 'validating', ?, ?, ?, ?, ?, ?, ?)",
        (
            batch_id,
            new.endpoint,
            new.input_file_id,
            new.completion_window,
            now,
            now + new.window_s,
            orjson.dumps(new.metadata).decode() if new.metadata is not None else None,
            new.output_seconds,
            _own_key(new),
            new.request,
            new.owner,
        ),
    )


def _own_key(new: NewBatch) -> str | None:
    """The idempotency key as it is stored: two owners may use the same. No header holds a line break."""
    return f"{new.owner}\n{new.idempotency_key}" if new.owner and new.idempotency_key else new.idempotency_key


def _row(connection: sqlite3.Connection, batch_id: str, owner: str) -> sqlite3.Row:
    query = f"SELECT * FROM batches WHERE id = ? AND {SEEN}"  # noqa: S608 - constants
    row: sqlite3.Row | None = connection.execute(query, (batch_id, owner)).fetchone()
    if row is None:
        raise RefusedError(404, "not_found", f"No batch found with id '{batch_id}'.", param="batch_id")
    return row


def _owner(connection: sqlite3.Connection, batch_id: str) -> tuple[str, str]:
    """Owner and status of a batch that there is."""
    row = connection.execute("SELECT owner, status FROM batches WHERE id = ?", (batch_id,)).fetchone()
    return row["owner"], row["status"]


def _move(connection: sqlite3.Connection, batch_id: str, before: tuple[str, ...], after: str) -> bool:
    """Compare-and-set of the status, with the timestamp of the new one. False where the status is another."""
    marks = ", ".join("?" * len(before))
    query = (
        f"UPDATE batches SET status = ?, {after}_at = coalesce({after}_at, {_LATEST}) "  # noqa: S608 - constants
        f"WHERE id = ? AND status IN ({marks})"
    )
    return connection.execute(query, (after, int(time.time()), batch_id, *before)).rowcount > 0
