"""The engine's settings: a TOML file with a table `[engine]`, its flags laid over it. Names keys, holds only hashes.

Paths in the file are relative to it. Other tables of the file are not the engine's, and are left alone.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, field_validator

from embedfill.config import Name, Table, checked, secret
from embedfill.engine.owners import digest_of
from embedfill.errors import ConfigError, UsageError


class RouteSettings(Table):
    """An OpenAI-compatible server that answers for the models of one pattern (`*`, `?` and `[...]` as in file names)."""

    base_url: str = Field(pattern=r"^https?://[^/\s?#]+[^\s?#]*$")
    api_key_env: Name | None = None
    model: Name | None = None  # its name there, where that is another
    endpoints: list[Name] | None = None  # None: every one
    concurrency: int = Field(default=8, ge=1, le=1024)
    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)
    timeout_s: float = Field(default=600.0, gt=0)


class KeySettings(Table):
    """Where a key is to be had: a variable that holds it, or its SHA-256."""

    env: Name | None = None
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")


class ModelSettings(Table):
    """A local model of the user's own."""

    path: Name
    kind: Literal["onnx", "sentence-transformers"] = "onnx"
    max_tokens: int | None = Field(default=None, ge=8)


class WebhookSettings(Table):
    """Who is told of batches that have ended. `secret_env` names the variable that holds the signing secret."""

    url: str = Field(pattern=r"^https?://[^/\s]+\S*$")
    secret_env: Name
    events: list[Name] = Field(default=["batch.completed", "batch.failed", "batch.expired", "batch.cancelled"])


class EngineSettings(Table):
    """`port` 0: the one that the directory's last engine had, else any. `preload`: models loaded before the first
    request. `rehearse`: remote models to stand in for, with vectors of their length that mean nothing."""

    data: Path
    host: str = "127.0.0.1"
    port: int = Field(default=0, ge=0, le=65_535)
    api_key: SecretStr | None = Field(default=None, exclude=True)
    keys: dict[Name, KeySettings] = Field(default={})
    threads: int = Field(default=0, ge=0)
    preload: list[Name] = Field(default=[])
    models: dict[Name, ModelSettings] = Field(default={})
    routes: dict[Name, RouteSettings] = Field(default={})
    rehearse: list[Name] = Field(default=[])
    limits: Name | None = None
    windows: list[Annotated[str, Field(pattern=r"^[1-9]\d*[mhd]$")]] = Field(default=["24h"])
    webhooks: list[WebhookSettings] = Field(default=[])
    log_format: Literal["text", "json"] = "text"
    while_used: bool = False

    @field_validator("windows")
    @classmethod
    def _some(cls, value: list[str]) -> list[str]:
        if not value:
            raise ValueError("at least one")
        return value

    @property
    def keyed(self) -> bool:
        """Whether a key is asked for."""
        return self.api_key is not None or bool(self.keys)

    def digests(self, environ: Mapping[str, str] | None = None) -> dict[str, str]:
        """SHA-256 of each key by its owner. A key without a name is an owner of its own. Raises ConfigError."""
        found = {name: _digest(name, key, environ) for name, key in self.keys.items()}
        if self.api_key is not None:
            digest = digest_of(self.api_key)
            found[digest[:32]] = digest
        return found


def load(path: Path | None, flags: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> EngineSettings:
    """Settings of a file, with `flags` that are not None laid over them. Raises UsageError, ConfigError."""
    values = _table(path) if path is not None else {}
    if path is not None and "data" in values:
        values["data"] = path.resolve().parent / Path(str(values["data"])).expanduser()
    values |= {name: value for name, value in flags.items() if value is not None}
    return checked(EngineSettings, values, str(path or "the command line"), os.environ if environ is None else environ)


def _table(path: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig")).get("engine", {})
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(
            f"{path}: {error}", "the engine's configuration is a TOML file with a table [engine]"
        ) from None
    if not isinstance(table, dict):
        raise ConfigError("engine", table, "must be a table", str(path))
    return table


def _digest(name: str, key: KeySettings, environ: Mapping[str, str] | None) -> str:
    if (key.env is None) == (key.sha256 is None):
        raise ConfigError(f"engine.keys.{name}", None, "needs either env or sha256")
    if key.sha256 is not None:
        return key.sha256
    value = secret(str(key.env), environ)
    if value is None:
        raise ConfigError(f"engine.keys.{name}.env", key.env, "the variable is not set")
    return digest_of(value)
