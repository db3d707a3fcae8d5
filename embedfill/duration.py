"""How long a run's batches may take, from the limit on what may be enqueued and from what earlier batches took. A range,
never a promise: nobody but the provider knows."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from embedfill.batchapi.windows import window_s
from embedfill.records import Outcome
from embedfill.tracker.quota import Quota

_TELLING_S = 5.0  # whole seconds are all that batches say: a rate from fewer would be a guess


@dataclass(frozen=True, slots=True)
class Duration:
    """`waves`: how often the limits on what may be enqueued (None: there is none) have to be filled. `typical_s` as
    `past_batches` of this store took: for a remote provider their median for each wave, for this machine's engine at the
    best rate that it reached. `worst_s`: each wave the whole completion window. None: not known."""

    waves: int
    max_enqueued_tokens: int | None
    max_enqueued_requests: int | None
    typical_s: float | None
    worst_s: float | None
    past_batches: int


def duration(
    tokens: int, requests: int, batches: int, quota: Quota, window: str | None, outcomes: Iterable[Outcome]
) -> Duration:  # fmt: skip
    """For so many prompt tokens and requests in so many batches, to be sent or out already. Without a `window` this machine computes them
    itself."""
    limits = (quota.max_enqueued_tokens, quota.max_enqueued_requests)
    waves = max(_waves(count, limit) for count, limit in zip((tokens, requests), limits, strict=True))
    waves = min(waves, batches)  # one that is alone goes out whatever the limit
    past = [outcome for outcome in outcomes if outcome.vectors and outcome.seconds is not None]
    if window is None:
        rate, count = _rate(past)
        return Duration(waves, *limits, round(tokens / rate, 1) if rate else None, None, count)
    took = [outcome.seconds for outcome in past if outcome.seconds is not None]
    typical_s = waves * statistics.median(took) if took else None
    length_s = window_s(window)
    return Duration(waves, *limits, typical_s, waves * length_s if length_s is not None else None, len(took))


def _waves(count: int, limit: int | None) -> int:
    return (-(-count // limit) if limit else 1) if count else 0


def _rate(past: list[Outcome]) -> tuple[float, int]:
    """Tokens a second, of the batch that waited least for others, and of how many; 0.0 where none tells."""
    rates = [one.prompt_tokens / one.seconds for one in past if one.seconds is not None and one.seconds >= _TELLING_S]
    return max(rates, default=0.0), len(rates)
