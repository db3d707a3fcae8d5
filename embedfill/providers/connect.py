"""From a configuration to a client: starts the local engine, or takes URL and key of a remote provider."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import orjson

from embedfill import ids
from embedfill.batchapi.lines import EmbeddingsRequest
from embedfill.config import Config, EndpointConfig, secret
from embedfill.errors import ConfigError
from embedfill.models.known import KNOWN, ModelInfo
from embedfill.providers.client import BatchClient, is_loopback
from embedfill.providers.local import LocalEngine
from embedfill.providers.profiles import Profile, format_of, profile_of
from embedfill.records import Space
from embedfill.store.base import Store
from embedfill.store.cache import Cache

_ENGINE_KEY = "engine/data"


def space_of(config: Config, info: ModelInfo) -> Space:
    """The space that the configuration's vectors live in."""
    profile, extra = profile_of(config.embedding), config.embedding.options
    options = ids.canonical(extra).decode() if extra else ""
    return Space(info.name, info.dimensions, profile.name, origin_of(config.embedding, profile), options=options)


def request_of(config: Config, info: ModelInfo) -> EmbeddingsRequest:
    """How texts are sent. Raises ConfigError for what the model or the provider does not take."""
    embedding, profile = config.embedding, profile_of(config.embedding)
    dialect, sends = profile.dialect, embedding.send_dimensions
    if config.batch.endpoint:
        dialect = replace(dialect, endpoint=config.batch.endpoint)
    sends = info.shorter != () if sends is None else sends
    if not sends and info.name in KNOWN and info.dimensions != KNOWN[info.name].dimensions:
        raise ConfigError(
            "embedding.send_dimensions", False, f"{info.name} gives {embedding.dimensions} when asked only"
        )
    dimensions = embedding.dimensions if sends else None
    return EmbeddingsRequest(info.name, format_of(profile, embedding), dimensions, dialect, embedding.options)


def query_request(config: Config, space: Space) -> EmbeddingsRequest:
    """How queries for the vectors of a space are sent: with `query_options`, else the options of the space."""
    embedding, profile = config.embedding, profile_of(config.embedding)
    whole = KNOWN[space.model].dimensions if space.model in KNOWN else space.dimensions
    dimensions = space.dimensions if embedding.send_dimensions or space.dimensions != whole else None
    extra = embedding.query_options or (orjson.loads(space.options) if space.options else {})
    return EmbeddingsRequest(space.model, format_of(profile, embedding), dimensions, profile.dialect, extra)


def origin_of(endpoint: EndpointConfig, profile: Profile) -> str:
    if profile.name == "local":
        return "local"
    parts = urlsplit(base_url(endpoint, profile))
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}".lower()


def base_url(endpoint: EndpointConfig, profile: Profile) -> str:
    return endpoint.base_url or profile.base_url or ""


def is_paid(endpoint: EndpointConfig, profile: Profile, price: float | None = None) -> bool:
    """Whether submitting is taken to cost money: not at a server of this machine, whatever may be behind it, unless the
    user has named a `price`."""
    return bool(price) or (profile.paid and not is_loopback(base_url(endpoint, profile)))


def engine_data(config: Config, store: Store, cache: Cache) -> Path:
    """Where the store's engine keeps its state: as configured, else in the store if it is a directory, else in the
    cache."""
    if config.engine.data:
        return config.path(config.engine.data)
    own = store.local_path(_ENGINE_KEY)
    return (own if own is not None else cache.root / _ENGINE_KEY).parent


@contextmanager
def connect(endpoint: EndpointConfig, engine: Path) -> Iterator[BatchClient]:
    """A client of the configured provider, for as long as the context lasts. `engine` is the data folder of the local
    one. Raises ConfigError without a key."""
    profile = profile_of(endpoint)
    if profile.name == "local":
        with LocalEngine(engine) as local, BatchClient(local.url, local.key) as client:

            def revive() -> None:
                local.revive()
                client.base_url = local.url  # the same as before, unless its port was taken meanwhile

            client.revive = revive
            yield client
        return
    with remote_client(endpoint, profile) as client:
        yield client


def remote_client(endpoint: EndpointConfig, profile: Profile) -> BatchClient:
    name = endpoint.api_key_env or profile.key_env
    key = secret(name)
    if key is None and (endpoint.base_url is None or not profile.confirmed):
        raise ConfigError(
            "embedding.api_key_env", _shown(name), "no such environment variable is set; it holds the API key"
        )
    headers = {"OpenAI-Organization": endpoint.organization, "OpenAI-Project": endpoint.project}
    sent = {name: value for name, value in headers.items() if value}
    dialect = profile.dialect
    return BatchClient(base_url(endpoint, profile), key, sent, auth=dialect.auth, delete=dialect.delete)


def _shown(name: str) -> str:
    """The name of a variable; what does not look like one may be the key itself, written in the wrong place."""
    return name if re.fullmatch(r"[A-Z_][A-Z0-9_]*", name) else "***"
