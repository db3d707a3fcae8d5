"""From a configuration to a client: starts the local engine, or takes URL and key of a remote provider."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from embedfill.config import Config, secret
from embedfill.errors import ConfigError
from embedfill.models.known import ModelInfo
from embedfill.providers.client import BatchClient, is_loopback
from embedfill.providers.local import LocalEngine
from embedfill.providers.profiles import Profile, profile_of
from embedfill.records import Space
from embedfill.store.base import Store
from embedfill.store.cache import Cache

_ENGINE_KEY = "engine/data"


def space_of(config: Config, info: ModelInfo) -> Space:
    """The space that the configuration's vectors live in."""
    profile = profile_of(config)
    return Space(info.name, info.dimensions, profile.name, origin_of(config, profile))


def origin_of(config: Config, profile: Profile) -> str:
    if profile.name == "local":
        return "local"
    parts = urlsplit(base_url(config, profile))
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}".lower()


def base_url(config: Config, profile: Profile) -> str:
    return config.embedding.base_url or profile.base_url or ""


def is_paid(config: Config, profile: Profile) -> bool:
    """Whether submitting is taken to cost money: not at a server of this machine, whatever may be behind it."""
    return profile.paid and not is_loopback(base_url(config, profile))


def engine_data(config: Config, store: Store, cache: Cache) -> Path:
    """Where the store's engine keeps its state: as configured, else in the store if it is a directory, else in the
    cache."""
    if config.engine.data:
        return config.path(config.engine.data)
    own = store.local_path(_ENGINE_KEY)
    return (own if own is not None else cache.root / _ENGINE_KEY).parent


@contextmanager
def connect(config: Config, store: Store, cache: Cache) -> Iterator[BatchClient]:
    """A client of the configured provider, for as long as the context lasts. Raises ConfigError without a key."""
    profile = profile_of(config)
    if profile.name == "local":
        with LocalEngine(engine_data(config, store, cache)) as engine, BatchClient(engine.url, engine.key) as client:

            def revive() -> None:
                engine.revive()
                client.base_url = engine.url  # the same as before, unless its port was taken meanwhile

            client.revive = revive
            yield client
        return
    with remote_client(config, profile) as client:
        yield client


def remote_client(config: Config, profile: Profile) -> BatchClient:
    embedding = config.embedding
    key = secret(embedding.api_key_env)
    if key is None and embedding.base_url is None:
        raise ConfigError(
            "embedding.api_key_env",
            _shown(embedding.api_key_env),
            "no such environment variable is set; it holds the API key",
        )
    headers = {"OpenAI-Organization": embedding.organization, "OpenAI-Project": embedding.project}
    return BatchClient(base_url(config, profile), key, {name: value for name, value in headers.items() if value})


def _shown(name: str) -> str:
    """The name of a variable; what does not look like one may be the key itself, written in the wrong place."""
    return name if re.fullmatch(r"[A-Z_][A-Z0-9_]*", name) else "***"
