"""The engine's parts without threads or HTTP, and a direct way into its tables."""

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from embedfill.batchapi.models import Batch
from embedfill.engine.state.allowance import UNLIMITED, Allowance
from embedfill.engine.state.batches import Batches, NewBatch
from embedfill.engine.state.database import Database
from embedfill.engine.state.files import Files, new_file
from embedfill.engine.state.spool import Spools
from embedfill.engine.work.jobs import Jobs
from embedfill.engine.work.pool import Pool
from embedfill.engine.work.served import Served
from embedfill.engine.work.validator import Validator
from embedfill.engine.work.worker import Worker


class Bench:
    """Each step when the test says so. `ended` is what `Batches` is given."""

    def __init__(self, root: Path, allowance: Allowance = UNLIMITED, ended: Any = lambda *_: None) -> None:
        self.root = root
        self.database = Database(root / "engine.db")
        self.files = Files(root, self.database)
        self.batches = Batches(self.database, allowance, ended)
        self.allowance = allowance
        self.spools = Spools(root, self.database)
        self.pool = Pool(1)
        self.served = Served(self.pool.names, {})
        self.worker = Worker(Jobs(self.batches, self.files, self.spools, lambda batch: True), self.pool)
        self.validator = Validator(
            self.batches, self.files, self.spools, self.served, allowance, lambda: False, lambda: None
        )

    def file(self, data: bytes, owner: str = "") -> str:
        part = self.files.new_part()
        part.write_bytes(data)
        return self.files.adopt(part, new_file(len(data), "in.jsonl", "batch", None), owner).id

    def create(self, file_id: str, owner: str = "", key: str | None = None, **options: Any) -> str:
        """A batch as POST /batches makes it."""
        new = NewBatch("/v1/embeddings", file_id, "24h", None, None, key, "{}", owner, **options)
        return self.batches.create(new).id

    def batch(self, data: bytes, valid: bool = True, owner: str = "") -> str:
        """A batch, already validated unless told otherwise; the input file is gone by then."""
        file_id = self.file(data, owner)
        batch_id = self.create(file_id, owner)
        self.spools.hold(batch_id, self.files.path(file_id))
        self.files.delete(file_id, owner)
        while valid and self.get(batch_id).status == "validating":
            assert self.validator.step()
        return batch_id

    def get(self, batch_id: str) -> Batch:
        """Whoever's it is."""
        ((owner,),) = execute(self.root, "SELECT owner FROM batches WHERE id = ?", batch_id)
        return self.batches.get(batch_id, owner)

    def step_until_moving(self, batch_id: str) -> int:
        """Runs windows until some, but not all, lines are finished; how many."""
        while not (done := self.completed(batch_id)):
            assert self.worker.step()
        return done

    def completed(self, batch_id: str) -> int:
        counts = self.get(batch_id).request_counts
        assert counts is not None
        return counts.completed

    def end(self, batch_id: str) -> None:
        while not self.get(batch_id).ended:
            assert self.worker.step()

    def lines(self, file_id: str | None) -> list[dict[str, Any]]:
        if file_id is None:
            return []
        return [orjson.loads(line) for line in self.files.path(file_id).read_bytes().split(b"\n") if line]

    def close(self) -> None:
        self.worker.close()
        self.database.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


def runs(root: Path) -> dict[int, int]:
    return dict(execute(root, "SELECT runs, count(*) FROM lines GROUP BY runs"))


def let_expire(root: Path, batch_id: str) -> None:
    execute(root, "UPDATE batches SET expires_at = ? WHERE id = ?", int(time.time()) - 1, batch_id)


def execute(root: Path, query: str, *values: object) -> list[Any]:
    connection = sqlite3.connect(root / "engine.db")
    with connection:
        rows = connection.execute(query, values).fetchall()
    connection.close()
    return rows
