"""Tells, once each, of batches that near the end of their window and still run. Changes nothing."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from embedfill.batchapi.models import Batch
from embedfill.batchapi.windows import window_s
from embedfill.tracker.state import ShardState, store_time
from embedfill.tracker.submit import Account

_NEAR = 0.8  # of the window
_LOOK_S = 600.0  # between two looks at the store's clock, or less where windows are short
_HOUR_S = 3600


@dataclass(slots=True)
class Alarm:
    """Age is the store's time since the claim: no clock of this machine is compared with the provider's."""

    account: Account
    note: Callable[[str], None]
    told: set[str] = field(default_factory=set)
    _look_at: float = 0.0

    def look(self, submitted: Iterable[ShardState], batches: Mapping[str, Batch | None]) -> None:
        running = [(shard, batch) for shard in submitted if (batch := batches.get(str(shard.batch_id)))]
        ages = {batch.id: (shard, length_s(batch)) for shard, batch in running if not batch.ended}
        new = {name: pair for name, pair in ages.items() if name not in self.told and pair[1]}
        now = self.account.clock.now()
        if not new or now < self._look_at:
            return
        self._look_at = now + min(_LOOK_S, min(window for _, window in new.values()) / 100)
        today = store_time(self.account.store)
        for name, (shard, window) in new.items():
            if today - shard.claimed_at > _NEAR * window:
                self.told.add(name)
                self.note(
                    f"batch {name} has run for {(today - shard.claimed_at) / _HOUR_S:.1f} of its "
                    f"{window / _HOUR_S:.0f} hours; what it does not finish goes out again"
                )


def length_s(batch: Batch) -> float:
    """Seconds that the provider gives a batch; 0 where it does not say."""
    if batch.expires_at:
        return max(0.0, batch.expires_at - batch.created_at)
    return window_s(batch.completion_window) or 0.0
