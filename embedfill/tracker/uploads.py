"""Our files at the provider: which of them nothing needs any more. Deletes those, and never another store's.

Never the input of a batch that has not ended, nor one that the claim of an unsettled shard names, nor one so young that
its claim may be about to be made.
"""

import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from embedfill.batchapi.models import Batch, File
from embedfill.errors import RefusedError
from embedfill.tracker.listing import back_to
from embedfill.tracker.state import State
from embedfill.tracker.submit import Account

_MARGIN_S = 3_600  # a batch may be stamped earlier than its file
_NO_LISTING = (404, 405, 501)


@dataclass(slots=True)
class Uploads:
    """One look at the provider's files. `states` are those of all spaces of the store. `note` is told why nothing could
    be seen."""

    account: Account
    states: list[State]
    note: Callable[[str], None] = lambda _: None
    _newest: float = field(default=0.0, init=False)  # the latest time seen of the provider's clock

    def orphans(self, ask: bool) -> list[File]:
        """Uploads of this store that no batch and no unsettled claim names, older than a claim may take to be made.
        With `ask` the provider's clock is asked for the time where it matters, by an upload of one line; else this
        machine's tells."""
        try:
            mine = [file for file in self._files() if self._is_ours(file)]
            needed = self._needed(mine)
        except RefusedError as error:
            if error.status not in _NO_LISTING:
                raise
            self.note(f"the provider does not list files and batches: {error.message}")
            return []
        free = [file for file in mine if file.id not in needed]
        old = self._old(free, self._newest)
        return old if len(old) == len(free) else self._old(free, self._now(ask))

    def settled(self) -> list[str]:
        """Ids of the input, output and error files of this store's settled batches."""
        batches = list(self._batches())
        busy = self._claimed() | {batch.input_file_id for batch in batches if not batch.ended}
        done = [batch for batch in batches if batch.ended and self._is_settled(batch)]
        files = dict.fromkeys(
            name for batch in done for name in (batch.input_file_id, batch.output_file_id, batch.error_file_id) if name
        )
        return [name for name in files if name not in busy]

    def delete(self, file_ids: list[str]) -> Iterator[str]:
        """Deletes them one by one, and gives each that is gone."""
        for file_id in file_ids:
            self.account.client.delete_file(file_id)
            yield file_id

    def _files(self) -> Iterator[File]:
        for file in self.account.client.files():
            self._newest = max(self._newest, file.created_at)
            yield file

    def _batches(self, oldest: float = 0.0) -> Iterator[Batch]:
        for batch in back_to(self.account.client.batches(), oldest):
            self._newest = max(self._newest, batch.created_at)
            yield batch

    def _is_ours(self, file: File) -> bool:
        prefix, _, _ = self.account.upload_name("").rpartition(".")
        return file.filename.startswith(prefix) and file.filename.endswith(".jsonl")

    def _claimed(self) -> set[str]:
        """Files that the newest claims of unsettled shards name, void ones too."""
        shards = [(state, shard) for state in self.states for shard in state.open() if shard.attempt]
        return {state.claim(shard).file_id for state, shard in shards}

    def _needed(self, mine: list[File]) -> set[str]:
        """Files that a claim names, or any batch made since the oldest of them, whatever became of it."""
        if not mine:
            return set()
        oldest = min(file.created_at for file in mine) - _MARGIN_S
        return self._claimed() | {batch.input_file_id for batch in self._batches(oldest)}

    def _is_settled(self, batch: Batch) -> bool:
        metadata = batch.metadata or {}
        name, attempt = str(metadata.get("embedfill_shard", "")), str(metadata.get("embedfill_try", ""))
        ours = attempt.isdecimal() and metadata == self.account.metadata(name, int(attempt))
        return ours and any(name in state.shards and state.shards[name].settled for state in self.states)

    def _old(self, files: list[File], now: float) -> list[File]:
        return [file for file in files if now - file.created_at >= self.account.patience.claim_ttl_s]

    def _now(self, ask: bool) -> float:
        """The provider's time. Where it takes no such upload, the latest that was seen of it."""
        if not ask:
            return max(self._newest, time.time())
        path = self.account.cache.scratch("batchfiles") / f"clock-{secrets.token_hex(4)}.jsonl"
        try:
            path.write_bytes(b"{}\n")
            file = self.account.client.upload(path, self.account.upload_name("clock"))
        except RefusedError:
            return self._newest
        finally:
            path.unlink(missing_ok=True)
        self.account.client.delete_file(file.id)
        return file.created_at
