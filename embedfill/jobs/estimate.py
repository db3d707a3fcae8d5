"""What a job would send now, and what that may cost. Sends nothing."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedfill import ids
from embedfill.ids import IdSet
from embedfill.jobs.endpoints import UNKNOWN
from embedfill.jobs.open import OpenJob
from embedfill.jobs.pricing import cost
from embedfill.jobs.spool import Spool
from embedfill.jobs.tokens import EXACT
from embedfill.tracker.plan import refused_in
from embedfill.tracker.shards import shard_ids
from embedfill.tracker.state import State

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class JobEstimate:
    """What a job would send now; `failed` are refused for good. `cost_usd` is what it
    may cost with all that it may generate, None where a price or a limit is not known, or something is not counted
    (`uncounted` images, recordings and files); `counted` says by model how its tokens were counted, and only where all
    are exact, `exact`, the cost is the most that it can be."""

    requests: int
    answered: int
    failed: int
    in_flight: int
    rejected: int
    prompt_tokens: int
    output_tokens: int | None
    cost_usd: float | None
    counted: dict[str, str]
    uncounted: int
    exact: bool


def estimate(job: OpenJob, spool: Spool, state: State, retry: bool = False) -> JobEstimate:
    """What is still to be sent and paid, also of what an earlier run planned and did not submit. With `retry` what was
    refused goes out again. Changes nothing."""
    refused = IdSet() if retry else IdSet(ids.array(sorted(refused_in(state, job.config.batch.max_attempts).rejected)))
    out = IdSet()
    for shard in state.out():
        out.add(shard_ids(job.cache.path(shard.shard.key))[0])
    answered = spool.asked & state.have().has(spool.row_ids)
    failed = spool.asked & ~answered & refused.has(spool.row_ids)
    flying = spool.asked & ~answered & ~failed & out.has(spool.row_ids)
    new = spool.asked & ~(answered | failed | flying)
    return JobEstimate(
        requests=int(new.sum()),
        answered=int(answered.sum()),
        failed=int(failed.sum()),
        in_flight=int(flying.sum()),
        rejected=int((spool.model < 0).sum()),
        prompt_tokens=int(spool.tokens[new].sum()),
        output_tokens=_most(job, spool, new),
        cost_usd=_cost(job, spool, new),
        counted=spool.counted,
        uncounted=0 if job.config.assume_media_tokens is not None else int(spool.media[new].sum()),
        exact=set(spool.counted.values()) <= {EXACT} and not spool.media[new].any(),
    )


def _most(job: OpenJob, spool: Spool, new: Mask) -> int | None:
    """Tokens that the requests may generate at most; None where one does not say."""
    outputs = spool.output[new]
    unknown = int((outputs == UNKNOWN).sum())
    if unknown and job.config.assume_output_tokens is None:
        return None
    return int(outputs[outputs != UNKNOWN].sum()) + unknown * job.pricing.output_of(UNKNOWN)


def _cost(job: OpenJob, spool: Spool, new: Mask) -> float | None:
    total = 0.0
    for number, model in enumerate(spool.models):
        mine = new & (spool.model == number)
        output = _most(job, spool, mine)
        price = cost(job.pricing.of(model), int(spool.tokens[mine].sum()), output or 0)
        uncounted = job.config.assume_media_tokens is None and spool.media[mine].any()
        if price is None or output is None or (uncounted and price):
            return None
        total += price
    return total
