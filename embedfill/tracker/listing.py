"""The provider's listing of batches, read back only as far as needed, and which of several batches of one shard to keep.
Changes nothing."""

from collections.abc import Iterable, Iterator, Sequence

from embedfill.batchapi.models import Batch

_OLDER_IN_A_ROW = 20  # listings are newest first, but not to the second


def back_to(batches: Iterable[Batch], oldest: float) -> Iterator[Batch]:
    """The batches of a listing until a row of them was made before `oldest`, by the provider's clock. Some that are
    older are among them: a clock may have been set back."""
    older = 0
    for batch in batches:
        yield batch
        older = 0 if batch.created_at >= oldest else older + 1
        if older >= _OLDER_IN_A_ROW:
            return


def keep_one(batches: Sequence[Batch]) -> tuple[Batch, list[Batch]]:
    """Of several batches of one shard, as listed: the one that brings the most, the oldest of its like; and those of
    the others that still run, to be cancelled. One that failed, or was cut short, never hides one that runs."""
    oldest_first = reversed(batches)
    best = min(oldest_first, key=lambda batch: (_rank(batch), batch.created_at))
    return best, [batch for batch in batches if batch is not best and not batch.ended]


def is_empty(batch: Batch) -> bool:
    """Whether it is known to have brought nothing: it failed its validation, or ended early with no line done."""
    return batch.ended and batch.status != "completed" and (batch.status == "failed" or not batch.output_file_id)


def _rank(batch: Batch) -> int:
    """0 has everything, 4 never ran."""
    if batch.status == "failed":
        return 4
    if batch.ended:
        partial = batch.status != "completed"
        return (2 if partial else 0) if batch.output_file_id else 3
    return 1 if batch.status != "cancelling" else 2
