"""What a job's configuration means: its store, cache, provider, prices. Opens them; does no work."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson

from embedfill import ids
from embedfill.batchapi.dialect import Dialect
from embedfill.batchapi.lines import request_line
from embedfill.batchapi.models import EMBEDDINGS
from embedfill.clock import Clock
from embedfill.config import EndpointConfig
from embedfill.errors import ConfigError, MissingError, UsageError
from embedfill.jobs.config import JobConfig, cache_root
from embedfill.jobs.pricing import Pricing
from embedfill.jobs.prompt import Prompt
from embedfill.jobs.spool import Spool
from embedfill.providers.client import BatchClient
from embedfill.providers.connect import connect, is_paid, origin_of
from embedfill.providers.profiles import Profile, patience_of, profile_of, window_of
from embedfill.store import layout
from embedfill.store.base import Store
from embedfill.store.cache import Cache, default_root
from embedfill.store.open import identity, open_store, probe
from embedfill.tracker.maker import this_maker
from embedfill.tracker.quota import Quota, quota_of
from embedfill.tracker.shards import Line, Packing
from embedfill.tracker.state import State
from embedfill.tracker.submit import Account

_ENGINE = "engine"


@dataclass(frozen=True, slots=True)
class OpenJob:
    """A checked configuration with what it stands for. `space` is where its answers lie: those of another endpoint or
    another provider lie elsewhere. `prompt` is None for prepared JSONL."""

    config: JobConfig
    endpoint: str
    prompt: Prompt | None
    store: Store
    store_id: str
    cache: Cache
    profile: Profile
    space: str
    paid: bool
    pricing: Pricing

    def client(self) -> AbstractContextManager[BatchClient]:
        """The provider's client; the local engine runs as long as the context lasts."""
        own = self.store.local_path(layout.STORE)
        return _named(connect(self.config.provider, (own.parent if own else self.cache.root) / _ENGINE))

    def account(self, client: BatchClient, at: Callable[[str], None], clock: Clock | None = None) -> Account:
        batch = self.config.batch
        return Account(
            store=self.store,
            cache=self.cache,
            client=client,
            space=self.space,
            store_id=self.store_id,
            line=_line(self.endpoint, self.profile.dialect),
            price_of=self.pricing.price_of,
            patience=patience_of(self.profile, batch),
            maker=this_maker(),
            endpoint=self.endpoint,
            window=window_of(self.profile, batch),
            clock=clock or Clock(),
            tidy=self.profile.name == "local",
            at=at,
        )

    def packing(self, spool: Spool, quota: Quota) -> Packing:
        """One request a row. Where requests hold several inputs, or large answers are known, fewer fit into a batch."""
        limits, batch = self.profile.limits, self.config.batch
        most = [batch.max_inputs // spool.inputs]
        if spool.answer_bytes:
            most.append(limits.output_bytes // spool.answer_bytes)
        return Packing(limits, 0, "base64", 1, max(1, min(most)), quota.shard_tokens)

    def quota(self) -> Quota:
        """Raises ConfigError for a tier whose limits are not known."""
        return quota_of(self.profile, self.config.batch, self.endpoint)

    def state(self) -> State:
        """Where the shards of the space stand, as known before a first refresh."""
        return State(self.store, self.cache, self.space, self.pricing.cost_of)


def open_job(config: JobConfig, store_url: str, endpoint: str, prompt: Prompt | None = None) -> OpenJob:
    """Opens what the configuration names. Raises ConfigError for what does not fit together."""
    with _renamed():
        profile = profile_of(config.provider)
    if profile.name == "local" and endpoint != EMBEDDINGS:
        raise ConfigError("provider", "local", f"the local engine serves {EMBEDDINGS} alone: name another --provider")
    if profile.dialect.model_in == "batch":
        raise ConfigError(
            "provider", profile.name, "takes no prepared requests: its batches name the model, not its lines"
        )
    quota_of(profile, config.batch, endpoint)  # also a dry run tells of a limit or a window that cannot be
    window_of(profile, config.batch)
    if store_url.startswith("memory:"):
        hint = "give a directory or s3://…: a killed run could not be gone on with, and all would be paid again"
        raise UsageError(f"{store_url} forgets everything when this run ends", hint)
    store = open_store(store_url)
    store_id = _identified(store)
    space = job_space(endpoint, config.provider)
    cache = Cache((cache_root(config) or default_root()) / store_id, store)
    return OpenJob(
        config=config,
        endpoint=endpoint,
        prompt=prompt,
        store=store,
        store_id=store_id,
        cache=cache,
        profile=profile,
        space=space,
        paid=is_paid(config.provider, profile, _price(config)),
        pricing=Pricing(config, endpoint, cache, space),
    )


def job_space(endpoint: str, provider: EndpointConfig) -> str:
    """Where the answers of an endpoint of a provider lie."""
    profile = profile_of(provider)
    parts = {"endpoint": endpoint, "profile": profile.name, "origin": origin_of(provider, profile)}
    return ids.digest_hex("jobspace", ids.canonical(parts))[:16]


def _price(config: JobConfig) -> float:
    """The highest price that the configuration names."""
    return max((max(price.input, price.output) for price in config.prices.values()), default=0.0)


def default_store(out: Path) -> str:
    """Where a job keeps its state unless told: beside its results."""
    return str(out.with_name(out.name + ".store").absolute())


def _line(endpoint: str, dialect: Dialect) -> Line:
    def line(custom_id: str, texts: list[str]) -> bytes:
        (body,) = texts
        return request_line(custom_id, orjson.Fragment(body), endpoint, dialect)

    return line


def _identified(store: Store) -> str:
    try:
        store.read(layout.STORE)
    except MissingError:
        probe(store)  # before anything is shared through it
    return identity(store)


@contextmanager
def _named(client: AbstractContextManager[BatchClient]) -> Iterator[BatchClient]:
    with _renamed():
        entered = client.__enter__()
    try:
        yield entered
    finally:
        client.__exit__(None, None, None)


@contextmanager
def _renamed() -> Iterator[None]:
    """The provider's keys stand in a table of another name here than in a project's configuration."""
    try:
        yield
    except ConfigError as error:
        if not error.key.startswith("embedding."):
            raise
        raise ConfigError("provider." + error.key.removeprefix("embedding."), error.value, error.allowed) from None
