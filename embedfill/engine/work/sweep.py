"""Collects old data: what has expired, and what nobody can ask for any more. In small steps, so that no change waits
long for one of them. What is freed inside the database is used again; its file does not shrink.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from embedfill.engine.state.database import Database
from embedfill.engine.work.webhooks import GIVEN_UP_S

LINES_KEPT_S = 86_400  # of a batch that has ended: nothing needs them, but whoever looks into what went wrong
BATCHES_KEPT_S = 60 * 86_400  # after their end: clients look back for a month, and outputs live for 30 days
EVENTS_KEPT_S = 7 * 86_400  # after they were told
_ENDED_AT = "coalesce(completed_at, failed_at, expired_at, cancelled_at)"


@dataclass(frozen=True, slots=True)
class _Old:
    """`find` gives the keys of what is older than its one value, some at a time; `delete` takes one of them."""

    kept_s: int
    find: str
    delete: str


_LINES = _Old(
    LINES_KEPT_S,
    # From one batch to the next over the key: lines are many, batches that still have some are few.
    f"""WITH RECURSIVE held (batch) AS (
        SELECT min(batch) FROM lines
        UNION ALL SELECT (SELECT min(batch) FROM lines WHERE batch > held.batch) FROM held WHERE batch IS NOT NULL
    ) SELECT held.batch FROM held LEFT JOIN batches ON seq = held.batch
    WHERE held.batch IS NOT NULL AND (seq IS NULL OR {_ENDED_AT} <= ?) LIMIT 1""",  # noqa: S608 - constants
    "DELETE FROM lines WHERE batch = ?1 AND line IN (SELECT line FROM lines WHERE batch = ?1 LIMIT 2000)",
)
_BATCHES = _Old(
    BATCHES_KEPT_S,
    f"""SELECT seq FROM batches WHERE created_at <= ?1 AND {_ENDED_AT} <= ?1
    AND NOT EXISTS (SELECT 1 FROM files WHERE id IN (output_file_id, error_file_id))
    AND NOT EXISTS (SELECT 1 FROM lines WHERE batch = seq) LIMIT 500""",  # noqa: S608 - constants
    "DELETE FROM batches WHERE seq = ?",
)
_EVENTS = _Old(EVENTS_KEPT_S, "SELECT seq FROM events WHERE done_at <= ? LIMIT 500", "DELETE FROM events WHERE seq = ?")
_UNTOLD = _Old(  # to receivers that are configured no more
    GIVEN_UP_S + EVENTS_KEPT_S,
    "SELECT seq FROM events WHERE done_at IS NULL AND created_at <= ? LIMIT 500",
    "DELETE FROM events WHERE seq = ?",
)


class Sweep:
    """`expire` deletes the files and uploads whose time has come."""

    def __init__(self, database: Database, expire: Callable[[], None]) -> None:
        self._database = database
        self._expire = expire

    def step(self) -> bool:
        """One step of each kind. Whether there may be more to do at once."""
        self._expire()
        return any([self._collect(old) for old in (_LINES, _BATCHES, _EVENTS, _UNTOLD)])  # noqa: C419 - each, not the first

    def _collect(self, old: _Old) -> bool:
        """Looks as a reader: mostly there is nothing to do."""
        with self._database.read() as connection:
            found = connection.execute(old.find, (int(time.time()) - old.kept_s,)).fetchall()
        if found:
            keys = [(row[0],) for row in found]
            self._database.write(lambda connection: connection.executemany(old.delete, keys) and None).result()
        return bool(found)
