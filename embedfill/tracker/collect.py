"""Batches that are out: poll them, fetch the files of an ended one, and write its outcome. Decodes nothing itself."""

import fcntl
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from embedfill import ids
from embedfill.batchapi.models import Batch
from embedfill.errors import MissingError
from embedfill.records import Outcome
from embedfill.store import layout
from embedfill.tracker.state import ShardState, State
from embedfill.tracker.submit import Account

# (shard, its ended batch, its files that exist) -> outcome; packs and refusals are in the store when it returns.
Settle = Callable[[ShardState, Batch, list[Path]], Outcome]
_PAGES_BEFORE_ASKING = 3


@dataclass(slots=True)
class Collector:
    """Polls what is submitted and settles what has ended, one batch at a time."""

    account: Account
    settle: Settle
    missing_since: dict[str, float] = field(default_factory=dict)

    def poll(self, submitted: list[ShardState]) -> dict[str, Batch | None]:
        """The provider's word on each submitted batch, by batch id; None where it knows none of that id."""
        wanted = {str(state.batch_id) for state in submitted}
        found: dict[str, Batch | None] = {}
        if len(wanted) > 2:
            pages = _PAGES_BEFORE_ASKING + len(wanted) // 100
            for number, batch in enumerate(self.account.client.batches()):
                if batch.id in wanted:
                    found[batch.id] = batch
                if len(found) == len(wanted) or number >= pages * 100:
                    break
        for batch_id in wanted - found.keys():
            found[batch_id] = self.account.client.batch(batch_id)
        return found

    def collect(self, state: State, shard: ShardState, batch: Batch | None) -> Outcome | None:
        """Settles the shard if its batch has ended, or is gone for good; else None."""
        if batch is None:
            return self._lost(state, shard)
        self.missing_since.pop(batch.id, None)
        if not batch.ended:
            return None
        folder = self.account.cache.scratch("outputs", batch.id)
        with (folder / "lock").open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None  # another run on this machine is at it
            outcome = self.settle(shard, batch, self._download(batch, folder))
            self._write(state, shard, outcome)
            shutil.rmtree(folder, ignore_errors=True)
        if self.account.tidy:
            for file_id in filter(None, (batch.input_file_id, batch.output_file_id, batch.error_file_id)):
                self.account.client.delete_file(file_id)
        return outcome

    def _download(self, batch: Batch, folder: Path) -> list[Path]:
        """Output file first, then the error file; an id may be null or empty, and a file may be gone after a month."""
        files = []
        for name, file_id in (("output", batch.output_file_id), ("error", batch.error_file_id)):
            if file_id:
                path = folder / f"{name}.jsonl"
                try:
                    if not path.exists():
                        self.account.client.download(file_id, path)
                    files.append(path)
                except MissingError:
                    continue
        self.account.at("after-download")
        return files

    def _lost(self, state: State, shard: ShardState) -> Outcome | None:
        """A batch that the provider no longer knows is looked for as long as a listing may be late, then given up:
        its texts go out again."""
        first = self.missing_since.setdefault(str(shard.batch_id), time.monotonic())
        if time.monotonic() - first < self.account.patience.listing_delay_s:
            return None
        outcome = Outcome(
            shard.shard.id, shard.attempt, shard.batch_id, "lost", shard.shard.texts, 0, 0, 0, None, (),
            errors=("the provider knows no batch of this id",),
        )  # fmt: skip
        self._write(state, shard, outcome)
        return outcome

    def _write(self, state: State, shard: ShardState, outcome: Outcome) -> None:
        self.account.at("before-outcome")
        key = layout.outcome(self.account.space, shard.shard.id, shard.attempt)
        self.account.store.create(key, ids.canonical(asdict(outcome)))
        self.account.at("after-outcome")
        state.refresh()
