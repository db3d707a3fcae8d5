"""From a configuration to a client: URL, key, headers, space, what costs money, and the store's own engine."""

import os
import signal
from pathlib import Path
from typing import Any

import orjson
import pytest

from embedfill.config import Config, parse
from embedfill.errors import ConfigError
from embedfill.models.known import resolve
from embedfill.providers.connect import connect, engine_data, is_paid, origin_of, remote_client, space_of
from embedfill.providers.profiles import profile_of
from embedfill.store.cache import Cache
from embedfill.store.local import LocalStore
from embedfill.store.memory import MemoryStore
from tests.provider_fixtures import Provider


def config(base: Path = Path("/base"), **tables: Any) -> Config:
    embedding = {"provider": "openai", "model": "text-embedding-3-small", **tables.pop("embedding", {})}
    raw = {"store": "s", "corpus": {"paths": ["x"]}, "embedding": embedding, **tables}
    return parse(raw, base, environ={})


def at(url: str) -> Config:
    return config(embedding={"base_url": url})


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        (None, "https://api.openai.com"),
        ("https://api.openai.com/v1", "https://api.openai.com"),
        ("https://API.openai.com/v1/", "https://api.openai.com"),
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8001/v1", "http://127.0.0.1:8001"),
        ("https://user:secret@eu.example.com/openai/v1", "https://eu.example.com"),
    ],
)
def test_the_origin_of_a_space(url: str | None, origin: str) -> None:
    """A rehearsal against a stand-in must never be taken for the real thing."""
    made = config(embedding={"base_url": url} if url else {})
    assert origin_of(made.embedding, profile_of(made.embedding)) == origin
    assert space_of(made, resolve(made.embedding)).origin == origin


def test_the_local_space_has_no_address(tmp_path: Path) -> None:
    made = config(embedding={"provider": "local", "model": "wordllama-256"})
    space = space_of(made, resolve(made.embedding))
    assert (space.origin, space.profile, space.dimensions) == ("local", "local", 256)


@pytest.mark.parametrize(
    ("url", "paid"),
    [
        (None, True),
        ("https://api.openai.com/v1", True),
        ("http://10.0.0.7/v1", True),
        ("http://127.0.0.1:8000/v1", False),
        ("http://127.9.9.9/v1", False),
        ("http://localhost:8000/v1", False),
        ("http://LOCALHOST/v1", False),
        ("http://[::1]:8000/v1", False),
        ("https://127.0.0.1.example.com/v1", True),
        ("https://127.com/v1", True),
        ("https://localhost.example.com/v1", True),
    ],
)
def test_only_this_machine_is_free(url: str | None, paid: bool) -> None:
    made = config(embedding={"base_url": url} if url else {})
    assert is_paid(made.embedding, profile_of(made.embedding)) is paid


@pytest.mark.parametrize("url", ["http://x:notaport/v1", "http://x:99999/v1", "http://[::1/v1", "ftp://x/v1", "x"])
def test_an_address_that_is_none_is_refused_before_anything_is_sent(url: str) -> None:
    with pytest.raises(ConfigError, match=r"embedding\.base_url"):
        at(url)


def test_the_local_engine_is_free() -> None:
    made = config(embedding={"provider": "local", "model": "wordllama-256"})
    assert not is_paid(made.embedding, profile_of(made.embedding))


def test_where_the_engine_keeps_its_state(tmp_path: Path) -> None:
    store, memory = LocalStore(tmp_path / "store"), MemoryStore()
    cache = Cache(tmp_path / "cache", store)
    assert engine_data(config(), store, cache) == tmp_path / "store" / "engine"
    assert engine_data(config(), memory, cache) == tmp_path / "cache" / "engine"
    named = config(tmp_path, engine={"data": "elsewhere"})
    assert engine_data(named, store, cache) == tmp_path / "elsewhere"


def test_a_key_is_needed_where_the_provider_is_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = config()
    for value in (None, "", "  "):
        if value is not None:
            monkeypatch.setenv("OPENAI_API_KEY", value)
        with pytest.raises(ConfigError, match="OPENAI_API_KEY"), connect(made.embedding, tmp_path):
            pass


def test_a_configured_address_key_and_headers_are_used(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = config(
        embedding={
            "base_url": provider.url + "/",
            "api_key_env": "OTHER_KEY",
            "organization": "org-1",
            "project": "proj-1",
        }
    )
    monkeypatch.setenv("OTHER_KEY", " sk-other\n")
    with connect(made.embedding, tmp_path) as client:
        assert list(client.batches()) == []
    headers = provider.requests[0].headers
    assert headers["authorization"] == "Bearer sk-other"
    assert (headers["openai-organization"], headers["openai-project"]) == ("org-1", "proj-1")


def test_a_configured_address_may_need_no_key(provider: Provider) -> None:
    made = at(provider.url)
    with remote_client(made.embedding, profile_of(made.embedding)) as client:
        assert list(client.batches()) == []
    assert set(provider.requests[0].headers) & {"authorization", "openai-organization", "openai-project"} == set()


def test_the_local_provider_runs_for_as_long_as_the_context(tmp_path: Path) -> None:
    made = config(embedding={"provider": "local", "model": "wordllama-256"})
    store = LocalStore(tmp_path / "store")
    notice = tmp_path / "store" / "engine" / "engine.json"
    with connect(made.embedding, engine_data(made, store, Cache(tmp_path / "cache", store))) as client:
        pid = orjson.loads(notice.read_bytes())["pid"]
        assert client.embed(["a text"], "wordllama-256").shape == (1, 256)
        os.kill(pid, signal.SIGKILL)
        assert client.embed(["a text"], "wordllama-256").shape == (1, 256)
    assert not notice.exists()


def test_a_key_written_where_its_variable_is_named_is_not_shown(tmp_path: Path) -> None:
    raw = {
        "store": "s",
        "corpus": {"paths": ["x"]},
        "embedding": {"provider": "openai", "model": "text-embedding-3-small"},
    }
    raw["embedding"]["api_key_env"] = "sk-proj-SECRETKEY"  # type: ignore[index]
    config = parse(raw, tmp_path, environ={})
    with pytest.raises(ConfigError, match="api_key_env") as raised:
        remote_client(config.embedding, profile_of(config.embedding))
    assert "SECRETKEY" not in str(raised.value)
