"""What must hold of an engine's data directory, and of what its clients were told, whatever happened to it.

`Ledger` is filled by the clients; `violations` looks at the directory of an engine that has stopped with nothing left to
do. Asks no engine anything.
"""

import hashlib
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

ENDED = ("completed", "failed", "expired", "cancelled")
STAMPS = {  # of each end, in order; those in brackets may be absent
    "completed": ("created_at", "in_progress_at", "finalizing_at", "completed_at"),
    "failed": ("created_at", "failed_at"),
    "expired": ("created_at", "in_progress_at", "expired_at"),
    "cancelled": ("created_at", "(in_progress_at)", "cancelling_at", "cancelled_at"),
}
ALL_STAMPS = {stamp.strip("()") for stamps in STAMPS.values() for stamp in stamps}
FOLLOWING = {
    "validating": {"in_progress", "failed", "cancelling"},
    "in_progress": {"finalizing", "cancelling", "expired"},
    "finalizing": {"completed"},
    "cancelling": {"cancelled"},
}
FOLDERS = {"files", "parts", "spool", "uploads"}
SPENT = ("input_tokens", "output_tokens")


@dataclass
class Upload:
    """A file that the engine said it has. `gone`: a client asked for its end, or it may have expired."""

    sha256: str
    size: int
    gone: bool = False


@dataclass
class Submitted:
    """A batch that the engine said it has. `custom_ids` of its lines; `seen` is the newest look at it; `cancel` the
    status that a cancel was answered with."""

    custom_ids: Sequence[str]
    seen: dict[str, Any]
    cancel: str | None = None


@dataclass
class Ledger:
    """What clients were told, by id. Its methods may be called by any thread."""

    uploads: dict[str, Upload] = field(default_factory=dict)
    batches: dict[str, Submitted] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def uploaded(self, file: dict[str, Any], data: bytes) -> None:
        with self.lock:
            self.uploads[file["id"]] = Upload(hashlib.sha256(data).hexdigest(), len(data))
            if file["bytes"] != len(data):
                self.broken.append(f"{file['id']} has {file['bytes']} bytes, not {len(data)}")

    def deleting(self, file_id: str) -> None:
        """Before it is asked for: the answer may be lost."""
        with self.lock:
            if file_id in self.uploads:
                self.uploads[file_id].gone = True

    def submitted(self, batch: dict[str, Any], custom_ids: Sequence[str]) -> None:
        with self.lock:
            self.batches.setdefault(batch["id"], Submitted(custom_ids, batch))

    def saw(self, batch: dict[str, Any]) -> None:
        """A look at a batch. Looks of one batch come in the order in which they were asked for."""
        with self.lock:
            known = self.batches.get(batch["id"])
            if known is not None:
                self.broken += [f"{batch['id']}: {reason}" for reason in _step(known.seen, batch)]
                known.seen = batch

    def cancelled(self, batch: dict[str, Any]) -> None:
        """A cancel that was answered with 200."""
        self.saw(batch)
        with self.lock:
            if batch["id"] in self.batches:
                self.batches[batch["id"]].cancel = batch["status"]


def _step(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    """What is wrong with `new` as the later of two looks at a batch."""
    if new["status"] != old["status"] and new["status"] not in _reachable(old["status"]):
        yield f"{new['status']} after {old['status']}"
    if old["status"] in ENDED and new != old:
        yield f"has changed after its end: {old} to {new}"
    for name in sorted(ALL_STAMPS):
        if old[name] is not None and new[name] != old[name]:
            yield f"{name} was {old[name]} and is {new[name]}"
    for name in ("total", "completed", "failed"):
        if new["request_counts"][name] < old["request_counts"][name]:
            yield f"{name} ran back from {old['request_counts'][name]} to {new['request_counts'][name]}"


def _reachable(status: str) -> set[str]:
    found: set[str] = set()
    waiting = [status]
    while waiting:
        new = FOLLOWING.get(waiting.pop(), set()) - found
        found |= new
        waiting += new
    return found


def violations(data: Path, ledger: Ledger) -> list[str]:
    """Everything that is wrong; nothing in an engine that kept its promises. The engine must have been stopped after
    all batches had ended."""
    connection = sqlite3.connect(data / "engine.db")
    connection.row_factory = sqlite3.Row
    try:
        return list(_Directory(data, connection, ledger).check())
    finally:
        connection.close()


class _Directory:
    def __init__(self, data: Path, connection: sqlite3.Connection, ledger: Ledger) -> None:
        self._data = data
        self._connection = connection
        self._ledger = ledger
        self._files = {row["id"]: row for row in self._rows("SELECT * FROM files")}
        self._batches = {row["id"]: row for row in self._rows("SELECT * FROM batches")}

    def _rows(self, query: str, *values: object) -> list[sqlite3.Row]:
        return self._connection.execute(query, values).fetchall()

    def check(self) -> Iterator[str]:
        yield from self._ledger.broken
        yield from self._folders()
        for file_id, upload in self._ledger.uploads.items():
            yield from self._upload(file_id, upload)
        for batch_id in self._ledger.batches.keys() - self._batches.keys():
            yield f"{batch_id} was answered and is lost"
        for row in self._batches.values():
            yield from (f"{row['id']} ({row['status']}): {reason}" for reason in self._batch(row))

    def _folders(self) -> Iterator[str]:
        """No bytes without a row, no row without its bytes, and nothing half done."""
        stored = {path.name: path.stat().st_size for path in (self._data / "files").iterdir()}
        for name in stored.keys() - self._files.keys():
            yield f"files/{name} has no row"
        for name, row in self._files.items():
            if stored.get(name) != row["bytes"]:
                yield f"{name} has {stored.get(name)} bytes, its row says {row['bytes']}"
        for folder in ("parts", "spool"):
            left = sorted(path.name for path in (self._data / folder).iterdir())
            if left:
                yield f"{folder}/ holds {left}"
        yield from self._parts()
        for path in self._data.iterdir():
            if (path.is_dir() and path.name not in FOLDERS) or path.name.startswith("."):
                yield f"{path.name} is left"

    def _parts(self) -> Iterator[str]:
        """Parts of uploads that are still open, each with its bytes."""
        query = "SELECT p.id, p.bytes, u.status FROM upload_parts p LEFT JOIN uploads u ON u.seq = p.upload"
        rows = {row["id"]: row for row in self._rows(query)}
        stored = {path.name: path.stat().st_size for path in (self._data / "uploads").iterdir()}
        for name in stored.keys() - rows.keys():
            yield f"uploads/{name} has no row"
        for name, row in rows.items():
            if row["status"] != "pending" or stored.get(name) != row["bytes"]:
                yield f"{name} of a {row['status']} upload has {stored.get(name)} bytes of {row['bytes']}"

    def _upload(self, file_id: str, upload: Upload) -> Iterator[str]:
        path = self._data / "files" / file_id
        if upload.gone:
            return
        if not path.exists() or file_id not in self._files:
            yield f"{file_id} was answered and is lost"
        elif hashlib.sha256(path.read_bytes()).hexdigest() != upload.sha256:
            yield f"{file_id} has other bytes than were sent"

    def _batch(self, row: sqlite3.Row) -> Iterator[str]:
        if row["status"] not in ENDED:
            yield "has not ended"
            return
        yield from self._stamps(row)
        yield from self._promises(row)
        if row["status"] == "failed" or row["model"] is None:
            yield from self._unrun(row)
        else:
            yield from self._lines(row)
            yield from self._results(row)

    def _stamps(self, row: sqlite3.Row) -> Iterator[str]:
        names = [name.strip("()") for name in STAMPS[row["status"]]]
        stamps = [row[name] for name in names if row[name] is not None]
        if stamps != sorted(stamps):
            yield f"its times run back: {stamps}"
        missing = [name for name in STAMPS[row["status"]] if not name.startswith("(") and row[name] is None]
        extra = [name for name in ALL_STAMPS - set(names) if row[name] is not None]
        if missing or extra:
            yield f"times missing: {missing}, times too many: {extra}"

    def _promises(self, row: sqlite3.Row) -> Iterator[str]:
        """What its client was told."""
        known = self._ledger.batches.get(row["id"])
        if known is None:
            return
        last = {name: row[name] for name in (*ALL_STAMPS, "status")}
        last["request_counts"] = {name: row[name] for name in ("total", "completed", "failed")}
        seen = {name: known.seen[name] for name in last}
        yield from _step(seen, last)
        if known.cancel == "cancelling" and row["status"] != "cancelled":
            yield "a cancel was accepted"
        if known.cancel == "finalizing" and row["status"] != "completed":
            yield "was cancelled while it finalized"

    def _unrun(self, row: sqlite3.Row) -> Iterator[str]:
        """A batch that validation ended has no requests, and no files."""
        counts = [row[name] for name in ("total", "completed", "failed", *SPENT)]
        if any(counts) or row["output_file_id"] or row["error_file_id"] or self._recorded(row):
            yield f"never ran, and has results: {counts}"
        if (row["status"] == "failed") != bool(row["errors"]):
            yield f"errors: {row['errors']}"

    def _recorded(self, row: sqlite3.Row) -> list[sqlite3.Row]:
        return self._rows("SELECT * FROM lines WHERE batch = ? ORDER BY spool, start", row["seq"])

    def _lines(self, row: sqlite3.Row) -> Iterator[str]:
        """Every request has one line, none was run twice, and the lines of a spool stand end to end."""
        lines = self._recorded(row)
        if row["completed"] + row["failed"] != row["total"]:
            yield f"{row['completed']} completed and {row['failed']} failed of {row['total']}"
        if len(lines) != row["total"]:
            yield f"{len(lines)} lines recorded of {row['total']}"
        if any(line["runs"] > 1 for line in lines):
            yield f"{sum(line['runs'] > 1 for line in lines)} lines ran again"
        ends = {"output": 0, "error": 0}
        for line in lines:
            if line["start"] != ends[line["spool"]]:
                yield f"line {line['line']} starts at {line['start']}, the one before ended at {ends[line['spool']]}"
            ends[line["spool"]] = line["stop"]
        for name, end in ends.items():
            file = self._files.get(row[f"{name}_file_id"])
            if file is not None and file["bytes"] != end:
                yield f"its {name} has {file['bytes']} bytes, its lines {end}"

    def _results(self, row: sqlite3.Row) -> Iterator[str]:
        """Its files: only where they have lines, and together each request once."""
        found: list[dict[str, Any]] = []
        collected = False
        for name, count in (("output", row["completed"]), ("error", row["failed"])):
            file_id = row[f"{name}_file_id"]
            if bool(file_id) != bool(count):
                yield f"{count} lines and the {name} file {file_id}"
            file = self._files.get(file_id)
            collected |= file_id is not None and file is None
            if file is not None:
                if (file["purpose"], file["owner"]) != ("batch_output", row["owner"]):
                    yield f"its {name} is of purpose {file['purpose']} and owner {file['owner']!r}"
                lines = _read(self._data / "files" / file_id)
                found += lines
                if len(lines) != count:
                    yield f"{len(lines)} lines in its {name} file, {count} counted"
        if not collected:  # nobody deleted them
            yield from self._covered(row, found)

    def _covered(self, row: sqlite3.Row, lines: list[dict[str, Any]]) -> Iterator[str]:
        ids = Counter(line["custom_id"] for line in lines)
        twice = [custom_id for custom_id, count in ids.items() if count > 1]
        if twice:
            yield f"more than one line of {twice[:5]}"
        known = self._ledger.batches.get(row["id"])
        if known is not None and ids.keys() != set(known.custom_ids):
            yield f"lines for {len(ids)} requests of {len(known.custom_ids)}"
        spent = Counter[str]()
        for line in lines:
            usage = (line["response"] or {}).get("body", {}).get("usage") or {}
            spent["input_tokens"] += usage.get("prompt_tokens", usage.get("input_tokens", 0))
            spent["output_tokens"] += usage.get("completion_tokens", usage.get("output_tokens", 0))
        for name in SPENT:
            if spent[name] != row[name]:
                yield f"{name} is {row[name]}, its lines come to {spent[name]}"


def _read(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.read_bytes().split(b"\n") if line] if path.exists() else []
