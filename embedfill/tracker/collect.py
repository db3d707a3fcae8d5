"""Batches that are out: poll them, fetch the files of an ended one, and write its outcome. Decodes nothing itself."""

import fcntl
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from embedfill import ids
from embedfill.batchapi.models import Batch
from embedfill.errors import MissingError, ProviderError, RefusedError
from embedfill.records import Outcome
from embedfill.store import layout
from embedfill.tracker.state import ShardState, State, store_time
from embedfill.tracker.submit import Account
from embedfill.tracker.sweeps import at_work

# (shard, its ended batch, its files that exist) -> outcome; packs and refusals are in the store when it returns.
Settle = Callable[[ShardState, Batch, list[Path]], Outcome]
_PAGES_BEFORE_ASKING = 3
_FILE_LIFE_S = 30 * 86_400  # providers delete batch files after a month


@dataclass(slots=True)
class Collector:
    """Polls what is submitted and settles what has ended, one batch at a time."""

    account: Account
    settle: Settle
    waits: bool = True  # False: a run that looks once and leaves
    note: Callable[[str], None] = lambda _: None
    missing_since: dict[str, float] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)

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
            if found[batch_id] is None:
                self.missing_since.setdefault(batch_id, self.account.clock.now())
        return found

    def collect(self, state: State, shard: ShardState, batch: Batch | None) -> Outcome | None:
        """Settles the shard if its batch has ended, or is gone for good; else None."""
        if batch is None:
            return self._lost(state, shard)
        self.missing_since.pop(batch.id, None)
        if not batch.ended or at_work(self.account.store):
            return None  # what a pack is made of may be what a prune is removing: it is over in a moment
        folder = self.account.cache.scratch("outputs", f"{shard.shard.id}-{shard.attempt}")
        with (folder / "lock").open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None  # another run on this machine is at it
            outcome = None if self._is_settled(shard) else self._settle(state, shard, batch, folder)
            if outcome is not None:
                shutil.rmtree(folder, ignore_errors=True)
        if outcome is not None and self.account.tidy:
            for file_id in filter(None, (batch.input_file_id, batch.output_file_id, batch.error_file_id)):
                self.account.client.delete_file(file_id)
        return outcome

    def _is_settled(self, shard: ShardState) -> bool:
        """Whether another run has written the outcome since the last listing; it may have deleted the files, too."""
        try:
            self.account.store.read(self._key(shard))
        except MissingError:
            return False
        return True

    def _settle(self, state: State, shard: ShardState, batch: Batch, folder: Path) -> Outcome | None:
        if _owes_output(batch) and not self._lapsed(
            shard, f"output of batch {batch.id}", lambda: self._has_output(batch.id)
        ):
            return None
        files = self._download(shard, batch, folder)
        if files is None:
            return None
        return self._write(state, shard, self.settle(shard, batch, files))

    def _download(self, shard: ShardState, batch: Batch, folder: Path) -> list[Path] | None:
        """Output file first, then the error file; an id may be null or empty, and a file may be gone after a month.
        None: one is not to be had, and may only be late."""
        files = []
        for name, file_id in (("output", batch.output_file_id), ("error", batch.error_file_id)):
            if file_id:
                path = folder / f"{name}.jsonl"
                try:
                    if not path.exists():
                        self.account.client.download(file_id, path)
                    files.append(path)
                except MissingError:
                    if not self._lapsed(
                        shard, f"file {file_id} of batch {batch.id}", partial(self._knows_file, file_id)
                    ):
                        return None
        self.account.at("after-download")
        return files

    def _lost(self, state: State, shard: ShardState) -> Outcome | None:
        """A batch that the provider no longer knows is asked for until it must have ended, then given up: its texts go
        out again. It may have been billed all the same, so it counts as spent."""
        age_s, batch_id = self._age_s(shard), str(shard.batch_id)
        if not self.waits and age_s <= self.account.patience.claim_ttl_s:
            return None
        if not self._gone(batch_id, lambda: self.account.client.batch(batch_id) is not None):
            return None
        claim = state.claim(shard)
        if not self.account.tidy and age_s < _FILE_LIFE_S and not self._knows_file(claim.file_id):
            raise ProviderError(
                f"the provider knows neither batch {shard.batch_id} nor its input file",
                "is this the key of another project? Run again with the one that submitted it: nothing is lost",
            )
        if age_s <= self.account.patience.lost_s:
            self._tell(f"batch {batch_id}")
            return None
        outcome = Outcome(
            shard.shard.id, shard.attempt, shard.batch_id, "lost", shard.shard.texts, 0, 0, 0, claim.price_usd, (),
            errors=("the provider knows no batch of this id",),
        )  # fmt: skip
        return self._write(state, shard, outcome)

    def _knows_file(self, file_id: str) -> bool:
        """A batch may be lost; that its file is gone as well means another account, or a month."""
        try:
            self.account.client.file(file_id)
        except RefusedError as error:
            if error.status == 404:
                return False
            raise
        return True

    def _has_output(self, batch_id: str) -> bool:
        batch = self.account.client.batch(batch_id)
        return batch is not None and not _owes_output(batch)

    def _age_s(self, shard: ShardState) -> float:
        return store_time(self.account.store) - shard.claimed_at

    def _lapsed(self, shard: ShardState, name: str, is_there: Callable[[], bool]) -> bool:
        """Whether something that was paid for is gone for good: missing, and so long after its claim that it cannot
        just be late. Until then nothing is paid again for it, and the user is told once."""
        if self._age_s(shard) > self.account.patience.lost_s:
            return self._gone(name, is_there)
        now = self.account.clock.now()
        if now - self.missing_since.setdefault(name, now) >= self.account.patience.listing_delay_s:
            self._tell(name)
        return False

    def _tell(self, name: str) -> None:
        if name not in self.told:
            self.told.add(name)
            self.note(
                f"the provider does not give {name}; it is asked for until {self.account.patience.lost_s / 3600:.0f} "
                "hours after its submission before anything is paid again"
            )

    def _gone(self, name: str, is_there: Callable[[], bool]) -> bool:
        """Whether something was missing for as long as a listing may be late. A run that does not wait looks again
        after that time: a moment's 404 is not the loss of what is paid."""
        now = self.account.clock.now()
        left_s = self.missing_since.setdefault(name, now) + self.account.patience.listing_delay_s - now
        if left_s <= 0:
            return True
        if self.waits:
            return False
        self.account.clock.sleep(left_s)
        return not is_there()

    def _key(self, shard: ShardState) -> str:
        return layout.outcome(self.account.space, shard.shard.id, shard.attempt)

    def _write(self, state: State, shard: ShardState, outcome: Outcome) -> Outcome | None:
        """None where another run was first; its outcome stands."""
        self.account.at("before-outcome")
        if not self.account.store.create(self._key(shard), ids.canonical(asdict(outcome))):
            return None
        self.account.at("after-outcome")
        state.add_outcome(self._key(shard), outcome)
        return outcome


def _owes_output(batch: Batch) -> bool:
    """Whether requests succeeded of which there is no file, by the counts, by the usage, or since a batch completes with
    one file at least: its id may only be late."""
    ran = (batch.request_counts and batch.request_counts.completed > 0) or (batch.usage and batch.usage.input_tokens)
    nothing = batch.status == "completed" and not batch.error_file_id
    return not batch.output_file_id and bool(ran or nothing)
