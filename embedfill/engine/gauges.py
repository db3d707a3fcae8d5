"""What the engine holds at this moment, as numbers for `Metrics.watch`. Reads the tables and the disk, changes neither."""

import shutil
import sqlite3
from collections.abc import Mapping
from pathlib import Path

from embedfill import __version__
from embedfill.engine.relay.upstream import Route
from embedfill.engine.state.database import Database
from embedfill.engine.telemetry.metrics import Metrics, Values

_BATCHES = "SELECT status, count(*) FROM batches GROUP BY status"
_WAITING = (
    "SELECT coalesce(sum(total - completed - failed), 0) FROM batches"
    " WHERE status IN ('validating', 'in_progress', 'finalizing', 'cancelling')"
)
_FILES = "SELECT purpose, count(*) FROM files GROUP BY purpose"
_BYTES = "SELECT purpose, sum(bytes) FROM files GROUP BY purpose"
_STATUSES = ("validating", "in_progress", "finalizing", "cancelling", "completed", "failed", "expired", "cancelled")


class Gauges:
    def __init__(self, data: Path, database: Database, routes: Mapping[str, Route]) -> None:
        self._data = data
        self._database = database
        self._routes = routes

    def register(self, metrics: Metrics) -> None:
        metrics.watch("batches", "Batches by status", self._batches, "status")
        metrics.watch("lines_waiting", "Lines of running batches without a result", self._waiting)
        metrics.watch("files", "Files by purpose", lambda: self._counted(_FILES), "purpose")
        metrics.watch("files_bytes", "Bytes of files by purpose", lambda: self._counted(_BYTES), "purpose")
        metrics.watch("disk_free_bytes", "Room on the disk of the data directory", self._free)
        metrics.watch("upstream_in_flight", "Requests to other servers under way", self._in_flight, "route")
        metrics.watch("upstream_limit", "How many may be under way at once, now", self._limits, "route")
        metrics.watch("build_info", "The engine's version", lambda: {(__version__,): 1.0}, "version")

    def _batches(self) -> Values:
        return dict.fromkeys(((status,) for status in _STATUSES), 0.0) | self._counted(_BATCHES)

    def _waiting(self) -> Values:
        return {(): float(self._rows(_WAITING)[0][0])}

    def _free(self) -> Values:
        return {(): float(shutil.disk_usage(self._data).free)}

    def _in_flight(self) -> Values:
        return {(pattern,): float(route.limiter.under_way) for pattern, route in self._routes.items()}

    def _limits(self) -> Values:
        return {(pattern,): float(route.limiter.window) for pattern, route in self._routes.items()}

    def _counted(self, query: str) -> dict[tuple[str, ...], float]:
        return {(str(name),): float(count) for name, count in self._rows(query)}

    def _rows(self, query: str) -> list[sqlite3.Row]:
        with self._database.read() as connection:
            return connection.execute(query).fetchall()
