"""The engine's settings: a file, flags over it, and what they say when they are wrong."""

import hashlib
import socket
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner
from pydantic import SecretStr

from embedfill.engine import effective, settings
from embedfill.engine.address import bind
from embedfill.engine.command import command
from embedfill.engine.folder import Folder
from embedfill.engine.settings import EngineSettings, KeySettings
from embedfill.errors import ConfigError, UsageError, WorldError

KEY = "a-key-of-no-known-form"
HASH = hashlib.sha256(KEY.encode()).hexdigest()


def load(tmp_path: Path, text: str, environ: dict[str, str] | None = None, **flags: Any) -> EngineSettings:
    path = tmp_path / "engine.toml"
    path.write_text(text)
    return settings.load(path, flags, environ or {})


def test_flags_stand_over_the_file_and_paths_start_at_it(tmp_path: Path) -> None:
    text = '[engine]\ndata = "d"\nport = 1\nhost = "::1"\n[engine.models.m]\npath = "m"\n[store]\nurl = 3\n'
    found = load(tmp_path, text, port=2)
    assert (found.data, found.port, found.host) == (tmp_path / "d", 2, "::1")
    assert found.models["m"].path == str(tmp_path / "m")
    assert load(tmp_path, text, data=tmp_path / "e").data == tmp_path / "e"


def test_a_flag_of_zero_is_a_flag(tmp_path: Path) -> None:
    path = tmp_path / "engine.toml"
    path.write_text('[engine]\ndata = "d"\nport = 8420\nthreads = 2\n')
    shown = _checked("--config", str(path), "--port", "0", "--threads", "0", "--grace", "0")
    assert (shown["port"], shown["threads"], shown["grace_s"]) == (0, 0, 0.0)


def test_routes_of_flags_go_first(tmp_path: Path) -> None:
    text = '[engine]\ndata = "d"\n[engine.routes."gpt-*"]\nbase_url = "http://127.0.0.1:1/v1"\n'
    found = load(tmp_path, text, routes={"gpt-4": {"base_url": "http://127.0.0.1:2/v1"}})
    assert list(found.routes) == ["gpt-4", "gpt-*"]


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        ("prot = 1", "prot", "did you mean port?"),
        ('routes."g-*" = { base_ur = "x" }', "routes.g-*.base_ur", "did you mean base_url?"),
        (
            'webhooks = [{ url = "http://x/", secret = "s" }]',
            "webhooks.0.secret",
            "known here: events, secret_env, url",
        ),
        ('routes.g = { base_url = "ftp://x" }', "routes.g.base_url", "an http:// or https:// URL"),
        ('routes.g = { base_url = "http://u:p@x/" }', "routes.g.base_url", "api_key_env"),
        ('keys."two words" = { env = "X" }', "keys.two words.[key]", "pattern"),
        ("port = 70000", "port", "65535"),
        ('port = "80"', "port", "integer"),
        ('log_format = "yaml"', "log_format", "'text' or 'json'"),
        ("windows = []", "windows", "at least one"),
        ('windows = ["99999999999999999999d"]', "windows.0", "pattern"),
        ('windows = ["24h", "999999d"]', "windows", "999999d is more than a year"),
        ("nothing = 1", "nothing", "known here: data, device"),
        ('routes.g = { base_url = "http://x/v1", endpoints = [] }', "routes.g.endpoints", "at least one"),
        (
            'routes.g = { base_url = "http://x/v1", endpoints = ["/chat/completions"] }',
            "routes.g.endpoints",
            "did you mean /v1/chat/completions?",
        ),
        (
            'routes.g = { base_url = "http://x/v1/chat/completions/" }',
            "routes.g.base_url",
            "without the endpoint, which is appended to it: http://x/v1",
        ),
        ('limits = { like = "none", enqueued_tokens = 0 }', "limits.enqueued_tokens", "greater"),
        ('api_key = "sk-1"', "api_key", "no key stands in a file"),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_allowed(tmp_path: Path, text: str, key: str, words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load(tmp_path, f'[engine]\ndata = "d"\n{text}\n')
    assert raised.value.key == key and words in raised.value.message
    assert "engine.toml" in raised.value.message


@pytest.mark.parametrize(
    "text",
    [f'keys.a = "{KEY}"', f'keys.a = {{ key = "{KEY}" }}', f'keys.a = {{ sha256 = "{KEY}" }}', f'api_key = "{KEY}"'],
)
def test_a_key_that_stands_in_the_file_is_refused_and_not_shown(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load(tmp_path, f'[engine]\ndata = "d"\n{text}\n')
    assert KEY not in str(vars(raised.value))


def test_keys_by_variable_and_hash_old_and_new(tmp_path: Path) -> None:
    text = f'[engine]\ndata="d"\nkeys.a = [{{ env = "A" }}, {{ sha256 = "{HASH.upper()}" }}]\nkeys.b.env = "B"\n'
    found = load(tmp_path, text, {"A": "one", "B": "two"})
    one, two = (hashlib.sha256(key).hexdigest() for key in (b"one", b"two"))
    assert found.keyed and found.digests({"A": " one\n", "B": "two"}) == {one: "a", HASH: "a", two: "b"}
    with pytest.raises(ConfigError, match="the same key as a's"):
        load(tmp_path, text, {"A": "one", "B": KEY})
    with pytest.raises(ConfigError, match=r"B.*not set"):
        load(tmp_path, text, {"A": "one"})
    with pytest.raises(ConfigError, match="either env or sha256"):
        EngineSettings(data=tmp_path, keys={"a": [KeySettings()]}).digests({})


def test_variables_of_routes_and_webhooks_must_be_set(tmp_path: Path) -> None:
    route = 'routes."g-*" = { base_url = "http://x/v1", api_key_env = "NOT_SET" }'
    hook = 'webhooks = [{ url = "http://x/", secret_env = "NOT_SET" }]'
    for text, key in ((route, "engine.routes.g-*.api_key_env"), (hook, "engine.webhooks.0.secret_env")):
        with pytest.raises(ConfigError, match="not set") as raised:
            load(tmp_path, f'[engine]\ndata = "d"\n{text}\n')
        assert raised.value.key == key and "NOT_SET" in raised.value.message


def test_only_keys_come_from_the_environment(tmp_path: Path) -> None:
    text = '[engine]\ndata = "d"\n'
    for environ in ({"EMBEDFILL_ENGINE__PORT": "1"}, {"EMBEDFILL_ENGINE_KEY": " "}):
        with pytest.raises(UsageError, match=next(iter(environ))):
            load(tmp_path, text, environ)
        assert load(tmp_path, text, environ, while_used=True).port == 0  # a store's engine has flags for everything
    assert load(tmp_path, text, {"EMBEDFILL_ENGINE__DATA": "x", "EMBEDFILL_STORE": "y"}).data == tmp_path / "d"


def test_files_that_are_none(tmp_path: Path) -> None:
    for text in ("engine = 3", "[other]", "[engine", "\x00"):
        with pytest.raises(UsageError, match=r"engine\.toml"):
            load(tmp_path, text)
    with pytest.raises(UsageError, match="No such file"):
        settings.load(tmp_path / "none.toml", {}, {})
    with pytest.raises(UsageError, match="needs a directory") as raised:
        settings.load(None, {}, {})
    assert "--data" in raised.value.hint and "--config" in raised.value.hint


def test_check_shows_what_holds_and_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDFILL_ENGINE_KEY", KEY)
    monkeypatch.setenv("A", "sk-aaaaaaaaaaaaaaaa")
    path = tmp_path / "engine.toml"
    path.write_text(f'[engine]\ndata = "d"\nkeys.a = {{ env = "A" }}\nkeys.b = {{ sha256 = "{HASH[::-1]}" }}\n')
    text = CliRunner().invoke(command, ["--config", str(path), "--check", "--limits", "openai-tier-2"]).output
    assert 'limits.like = "openai-tier-2"' in text and 'log_level = "info"' in text
    assert 'keys.a = ["$A"]' in text and "keys.default" in text
    assert not any(secret in text for secret in (KEY, HASH, HASH[::-1], "aaaa"))
    assert not (tmp_path / "d").exists()
    assert _checked("--config", str(path))["keys.b"] == ["a hash"]


def _checked(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(command, [*arguments, "--check", "--json"], catch_exceptions=False)
    found: dict[str, Any] = orjson.loads(result.output)
    return found


def test_what_would_not_run_is_told_before_anything_is_made(tmp_path: Path) -> None:
    data = tmp_path / "d"
    for arguments in (
        ["--host", "0.0.0.0"],
        ["--api-key", KEY, "--host", "127.0.0.1:80"],
        ["--api-key", KEY, "--host", "[::1]"],
        ["--limits", "tier-9"],
        ["--rehearse", "no-such"],
        ["--window", "1y"],
        ["--model", "no-such"],
        ["--route", "gpt"],
        ["--route", "gpt=nowhere"],
        ["--api-key", ""],
    ):
        for check in ([], ["--check"]):
            result = CliRunner().invoke(command, ["--data", str(data), *arguments, *check])
            assert isinstance(result.exception, UsageError), arguments
            assert arguments[-1].rpartition("=")[2] in result.exception.message
    assert not data.exists()


def test_a_place_that_cannot_be_had_says_what_to_change(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        for host, remedy in (("127.0.0.1", "stop what uses it"), ("192.0.2.1", "--host")):
            given = EngineSettings(data=tmp_path, host=host, port=taken.getsockname()[1], api_key=SecretStr(KEY))
            effective.check(given)
            with pytest.raises(WorldError) as raised:
                bind(given, Folder(tmp_path))
            assert remedy in raised.value.hint


def test_a_rehearsed_model_can_be_preloaded(tmp_path: Path) -> None:
    rehearsed = ["text-embedding-3-small"]
    effective.check(EngineSettings(data=tmp_path, rehearse=rehearsed, preload=rehearsed))


def test_a_new_key_comes_with_its_hash() -> None:
    made = [orjson.loads(CliRunner().invoke(command, ["--new-key", "--json"]).output) for _ in range(2)]
    assert made[0]["key"] != made[1]["key"] and len(made[0]["key"]) >= 43
    assert made[0]["sha256"] == hashlib.sha256(made[0]["key"].encode()).hexdigest()


def test_every_setting_has_a_flag_or_is_a_table() -> None:
    flags = {parameter.name for parameter in command.params}
    named = {"preload": "models", "grace_s": "grace", "windows": "window", "routes": "route"}
    tables = {"keys", "models", "webhooks"}
    missing = {name for name in EngineSettings.model_fields if named.get(name, name) not in flags} - tables
    assert missing == set()
