"""The engine's settings: a TOML file with a table `[engine]`, its flags laid over it. Names keys, holds only hashes.

Paths in the file are relative to it. Other tables of the file are not the engine's, and are left alone. Of the
environment only keys are read: those that the file names, and EMBEDFILL_ENGINE_KEY.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, field_validator

from embedfill.batchapi.models import ENDPOINTS
from embedfill.batchapi.windows import window_s
from embedfill.config import FLAG_ONLY, Name, Table, checked, secret
from embedfill.engine.owners import DEFAULT, digest_of
from embedfill.errors import ConfigError, UsageError
from embedfill.masks import HIDDEN
from embedfill.models.devices import Device
from embedfill.models.layout import Pooling
from embedfill.models.load import Kind

KEY_VARIABLE = "EMBEDFILL_ENGINE_KEY"
_OTHER_VARIABLES = "EMBEDFILL_ENGINE__"
_PROJECTS_OWN = "EMBEDFILL_ENGINE__DATA"  # where a project keeps its engine: see config.py
_URL = re.compile(r"https?://[^/\s]+\S*")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_YEAR_S = 366 * 86_400
_HINT = "the engine's configuration is a TOML file with a table [engine]"

OwnerName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


def _http(value: str) -> str:
    if not _URL.fullmatch(value):
        raise ValueError("an http:// or https:// URL")
    int(urlsplit(value).port or 0)  # raises ValueError for what no client could connect to
    return value


class RouteSettings(Table):
    """An OpenAI-compatible server that answers for the models of one pattern (`*`, `?` and `[...]` as in file names)."""

    base_url: str
    api_key_env: Name | None = None
    model: Name | None = None  # its name there, where that is another
    endpoints: list[Name] | None = None  # None: every one
    concurrency: int = Field(default=8, ge=1, le=1024)
    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)
    timeout_s: float = Field(default=600.0, gt=0)

    @field_validator("endpoints")
    @classmethod
    def _known(cls, value: list[str] | None) -> list[str] | None:
        if value is not None and not value:
            raise ValueError("at least one; leave it out for every one")
        for wrong in set(value or ()) - set(ENDPOINTS):
            meant = next((name for name in ENDPOINTS if name.endswith("/" + wrong.strip("/"))), None)
            said = f"did you mean {meant}? " if meant else ""
            raise ValueError(f"{wrong} is none: {said}there are: {', '.join(ENDPOINTS)}")
        return value

    @field_validator("base_url")
    @classmethod
    def _web(cls, value: str) -> str:
        if "@" in value:
            raise ValueError("without user info: name the variable that holds the key as api_key_env")
        if "?" in value or "#" in value:
            raise ValueError("without a query: paths are appended to it")
        for path in (name.removeprefix("/v1") for name in ENDPOINTS):
            if value.rstrip("/").endswith(path):
                rest = value.rstrip("/").removesuffix(path)
                raise ValueError(f"without the endpoint, which is appended to it: {rest}")
        return _http(value)


class KeySettings(Table):
    """Where a key is to be had: a variable that holds it, or its SHA-256."""

    env: Name | None = None
    sha256: str | None = None


class ModelSettings(Table):
    """A local model of the user's own: a directory, or one ONNX file in it. `max_tokens` and `pooling` are for what its
    files do not tell."""

    path: Name
    kind: Kind = "onnx"
    max_tokens: int | None = Field(default=None, ge=8)
    pooling: Pooling | None = None


class WebhookSettings(Table):
    """Who is told of batches that have ended. `secret_env` names the variable that holds the signing secret."""

    url: Annotated[str, AfterValidator(_http)]
    secret_env: Name
    events: list[Name] = Field(default=["batch.completed", "batch.failed", "batch.expired", "batch.cancelled"])


class LimitSettings(Table):
    """Limits of an account, enforced as its provider enforces them: those that `like` names, with single ones changed.
    `release_delay_s`: how long a batch that has ended still counts."""

    like: Name = "none"
    enqueued_tokens: int | None = Field(default=None, ge=1)
    enqueued_requests: int | None = Field(default=None, ge=1)
    batches_per_hour: int | None = Field(default=None, ge=1)
    batch_requests: int | None = Field(default=None, ge=1)
    batch_inputs: int | None = Field(default=None, ge=1)
    request_tokens: int | None = Field(default=None, ge=1)
    release_delay_s: int | None = Field(default=None, ge=0)


class EngineSettings(Table):
    """`port` 0: the one that the directory's last engine had, else any. `preload`: models loaded before the first
    request. `rehearse`: remote models to stand in for, with vectors of their length that mean nothing. `grace_s`: how
    long what is in hand may take once the engine is told to stop."""

    data: Path
    host: Name = "127.0.0.1"
    port: int = Field(default=0, ge=0, le=65_535)
    api_key: Annotated[SecretStr | None, FLAG_ONLY] = Field(default=None, exclude=True)
    keys: dict[OwnerName, list[KeySettings]] = Field(default={})
    threads: int = Field(default=0, ge=0)
    device: Device = "auto"
    preload: list[Name] = Field(default=[])
    models: dict[Name, ModelSettings] = Field(default={})
    routes: dict[Name, RouteSettings] = Field(default={})
    rehearse: list[Name] = Field(default=[])
    limits: LimitSettings = LimitSettings()
    windows: list[Annotated[str, Field(pattern=r"^[1-9][0-9]{0,5}[mhd]$")]] = Field(default=["24h"])
    webhooks: list[WebhookSettings] = Field(default=[])
    log_format: Literal["text", "json"] = "text"
    log_level: Literal["debug", "info", "warning", "error"] | None = None
    grace_s: float = Field(default=8.0, ge=0, le=3600)  # docker kills after 10 s
    while_used: Annotated[bool, FLAG_ONLY] = False

    @field_validator("limits", mode="before")
    @classmethod
    def _by_name(cls, value: object) -> object:
        return {"like": value} if isinstance(value, str) else value

    @field_validator("windows")
    @classmethod
    def _some(cls, value: list[str]) -> list[str]:
        if not value:
            raise ValueError("at least one")
        for window in value:
            if (window_s(window) or 0) > _YEAR_S:
                raise ValueError(f"{window} is more than a year")
        return value

    @property
    def keyed(self) -> bool:
        """Whether a key is asked for."""
        return self.api_key is not None or bool(self.keys)

    @property
    def level(self) -> str:
        """The log's. A store's own engine, which nobody watches, says only what is wrong."""
        return self.log_level or ("warning" if self.while_used else "info")

    def digests(self, environ: Mapping[str, str] | None = None) -> dict[str, str]:
        """The owner by the SHA-256 of each key. A key without a name is the default owner's. Raises ConfigError."""
        found: dict[str, str] = {}
        for owner, keys in self.keys.items():
            for digest in [_digest(owner, key, environ) for key in keys]:
                if found.setdefault(digest, owner) != owner:
                    raise ConfigError(f"engine.keys.{owner}", HIDDEN, f"the same key as {found[digest]}'s")
        if self.api_key is not None:
            found.setdefault(digest_of(self.api_key), DEFAULT)
        return found

    def check_environment(self, environ: Mapping[str, str] | None = None) -> None:
        """Raises ConfigError where a variable that is named here is not set."""
        named = {f"engine.routes.{name}.api_key_env": route.api_key_env for name, route in self.routes.items()}
        named |= {f"engine.webhooks.{at}.secret_env": hook.secret_env for at, hook in enumerate(self.webhooks)}
        for key, variable in named.items():
            if variable is not None and secret(variable, environ) is None:
                raise ConfigError(key, variable, "this environment variable is not set")
        self.digests(environ)


def load(path: Path | None, flags: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> EngineSettings:
    """Settings of a file, with `flags` that are not None laid over them. Raises UsageError, ConfigError."""
    environ = os.environ if environ is None else environ
    given = {name: value for name, value in flags.items() if value is not None}
    if not given.get("while_used"):
        _check_variables(environ)
    values = _table(path) if path is not None else {}
    values |= given | {"routes": given.get("routes", {}) | values.get("routes", {})}
    if "data" not in values:
        where = f"; {path} has none" if path else ""
        hint = "give --data DIRECTORY, or --config FILE, a TOML file with data = … under [engine]"
        raise UsageError(f"the engine needs a directory for its files, batches and state{where}", hint)
    found = checked(EngineSettings, values, str(path or "the command line"), environ)
    found.check_environment(environ)
    return found


def _check_variables(environ: Mapping[str, str]) -> None:
    """What is not read must not look as if it were; and a key that got lost must not open the engine."""
    for name in environ:
        if name.upper().startswith(_OTHER_VARIABLES) and name.upper() != _PROJECTS_OWN:
            raise UsageError(f"the engine does not read {name}", "use a flag, or the file of --config")
    if KEY_VARIABLE in environ and not environ[KEY_VARIABLE].strip():
        raise UsageError(f"{KEY_VARIABLE} is set, but empty", "give it the key, or unset it")


def _table(path: Path) -> dict[str, Any]:
    """`[engine]` of a file, its paths made absolute."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig")).get("engine")
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: {error}", _HINT) from None
    if not isinstance(values, dict):
        raise UsageError(f"{path} has no table [engine]", _HINT)
    base = path.resolve().parent
    if isinstance(values.get("data"), str):
        values["data"] = _path(base, values["data"])
    for model in _tables(values, "models"):
        if isinstance(model.get("path"), str):
            model["path"] = str(_path(base, model["path"]))
    if "api_key" in values:
        raise ConfigError(
            "api_key", HIDDEN, "no key stands in a file: name a variable, or a hash, under keys", str(path)
        )
    if isinstance(values.get("keys"), dict):
        values["keys"] = {owner: _keys(owner, given, str(path)) for owner, given in values["keys"].items()}
    return values


def _path(base: Path, value: str) -> Path:
    return (base / os.path.expanduser(value)).resolve()  # noqa: PTH111 - Path's raises for an unknown ~name


def _tables(values: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = values.get(name)
    return [one for one in found.values() if isinstance(one, dict)] if isinstance(found, dict) else []


def _keys(owner: str, given: object, source: str) -> list[Any]:
    """One key or several. What is neither may be a key, and is not shown."""
    keys = given if isinstance(given, list) else [given]
    if not keys or not all(isinstance(key, dict) and key.keys() <= KeySettings.model_fields.keys() for key in keys):
        allowed = 'must be { env = "VARIABLE" } or { sha256 = "…" }, or a list of such'
        raise ConfigError(f"keys.{owner}", HIDDEN, allowed, source)
    return keys


def _digest(owner: str, key: KeySettings, environ: Mapping[str, str] | None) -> str:
    if (key.env is None) == (key.sha256 is None):
        raise ConfigError(f"engine.keys.{owner}", HIDDEN, "needs either env or sha256")
    if key.sha256 is not None:
        if not _SHA256.fullmatch(key.sha256):
            raise ConfigError(f"engine.keys.{owner}.sha256", HIDDEN, "must be the 64 hex digits of a key's SHA-256")
        return key.sha256.lower()
    value = secret(str(key.env), environ)
    if value is None:
        raise ConfigError(f"engine.keys.{owner}.env", key.env, "this environment variable is not set")
    return digest_of(value)
