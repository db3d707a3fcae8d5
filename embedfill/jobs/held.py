"""Which jobs a store holds: each notes there what its space stands for, so that later commands need not be told. Holds no
secret, and reads no answers."""

from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

from embedfill.config import EndpointConfig
from embedfill.errors import MissingError, UsageError
from embedfill.ids import canonical
from embedfill.jobs.config import JobConfig
from embedfill.jobs.open import OpenJob, job_space, open_job
from embedfill.providers.connect import origin_of
from embedfill.store import layout
from embedfill.store.base import Store
from embedfill.store.cache import parse_json
from embedfill.store.open import open_store


@dataclass(frozen=True, slots=True)
class Held:
    """A job's endpoint and the [provider] table that it was run with; `origin` is that one's scheme and host."""

    endpoint: str
    origin: str
    provider: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.endpoint} at {self.origin}"


def note(job: OpenJob) -> None:
    """Leaves the job's note in its store. The first one stands."""
    given = job.config.provider
    parts = urlsplit(given.base_url or "")
    secret = parts.query or "@" in parts.netloc
    provider = given.model_dump(mode="json", exclude_none=True, exclude={"base_url"} if secret else None)
    job.store.create(
        layout.job(job.space), canonical(asdict(Held(job.endpoint, origin_of(given, job.profile), provider)))
    )


def open_held(config: JobConfig, store_url: str, endpoint: str | None = None) -> OpenJob:
    """Opens the one job of a store that has this endpoint and is with this provider, as far as they are given. Raises
    UsageError where there is no store, no such job, or several."""
    store = open_store(store_url)
    jobs = _jobs(store, store_url)
    named = "provider" in config.model_fields_set
    matching = [
        held
        for space, held in jobs.items()
        if endpoint in (None, held.endpoint) and (not named or space == job_space(held.endpoint, config.provider))
    ]
    if len(matching) != 1:
        there = "; ".join(sorted(map(str, jobs.values()))) or "none"
        problem = "several such jobs" if matching else "no such job"
        hint = "say which with --endpoint, --provider and --base-url"
        raise UsageError(f"{store_url} holds {problem} (all that it holds: {there})", hint)
    (held,) = matching
    if not named:
        config = config.model_copy(update={"provider": EndpointConfig(**held.provider)})
    return open_job(config, store_url, held.endpoint)


def _jobs(store: Store, url: str) -> dict[str, Held]:
    """The jobs of a store by space."""
    try:
        store.read(layout.STORE)
    except MissingError:
        raise UsageError(f"there is no store at {url}", "name the --out or the --store of a `batch run`") from None
    keys = [entry.key for entry in store.list(layout.job())]
    return {layout.job_of(key): Held(**parse_json(key, store.read(key))) for key in keys}
