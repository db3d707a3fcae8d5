"""Where a job stands, read off its store without its input: what is answered, what is out, what was spent. Asks no
provider."""

from collections import Counter
from dataclasses import dataclass

from embedfill import ids
from embedfill.flight import Flight, flight_of
from embedfill.ids import IdSet
from embedfill.jobs.open import OpenJob
from embedfill.providers.connect import origin_of
from embedfill.providers.profiles import window_of
from embedfill.tracker.plan import refused_in
from embedfill.tracker.shards import shard_ids
from embedfill.tracker.state import ShardState, State, Status


@dataclass(frozen=True, slots=True)
class JobStanding(Flight):
    """Requests that were ever planned, each counted once: `answered`, `failed` (refused for good), `in_flight`, or
    `pending`: to be sent, or sent again. What was never planned only a run can tell, for it reads the input."""

    store: str
    endpoint: str
    provider: str
    origin: str
    answered: int
    failed: int
    in_flight: int
    pending: int


def job_standing(job: OpenJob) -> JobStanding:
    """Reads the store. What is in flight has the price that it was submitted at."""
    state = job.state().refresh()
    window = window_of(job.profile, job.config.batch)
    flight = flight_of(state, job.quota(), window, lambda shard: state.claim(shard).price_usd)
    answered = state.have()
    rejected = ids.array(sorted(refused_in(state, job.config.batch.max_attempts).rejected))
    return JobStanding(
        **flight.values(),
        store=job.store.url,
        endpoint=job.endpoint,
        provider=job.profile.name,
        origin=origin_of(job.config.provider, job.profile),
        answered=len(answered),
        failed=int((~answered.has(rejected)).sum()),
        in_flight=sum(shard.shard.texts for shard in state.out()),
        pending=_pending(job, state, answered, rejected),
    )


def _pending(job: OpenJob, state: State, answered: IdSet, rejected: ids.IdArray) -> int:
    """Requests of shards that wait, and those whose batch did not answer them: only such shards need to be read."""
    brought = Counter[str]()
    for outcome in state.outcomes.values():
        brought[outcome.shard] += outcome.vectors
    known, found = IdSet(rejected), IdSet()
    for shard in state.out():
        known.add(_rows(job, shard))
    for name, shard in state.shards.items():
        waits = shard.status in (Status.PLANNED, Status.SETTLED) and not shard.retired
        if waits and brought[name] < shard.shard.texts:
            rows = _rows(job, shard)
            found.add(rows[~(answered.has(rows) | known.has(rows))])
    return len(found)


def _rows(job: OpenJob, shard: ShardState) -> ids.IdArray:
    return shard_ids(job.cache.path(shard.shard.key))[0]
