"""Configuration: a TOML file, then the environment, checked by pydantic. Holds no secret: keys are named, not stored.

Every key of a table may be overridden by `EMBEDFILL_<TABLE>__<KEY>` (and `EMBEDFILL_STORE`), whose value is read as
TOML, else as a plain string. Relative paths are relative to the configuration file.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from embedfill.errors import ConfigError, UsageError

PREFIX = "EMBEDFILL_"
_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?b?)\s*$", re.IGNORECASE)
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class CorpusConfig(_Table):
    """Which Parquet files, and which of their columns."""

    paths: list[str] = Field(min_length=1)
    id: str = "id"
    text: str | list[str] = "text"
    metadata: list[str] = []

    @field_validator("paths", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @field_validator("text")
    @classmethod
    def _named(cls, value: str | list[str]) -> str | list[str]:
        if not value or not all(value):
            raise ValueError("at least one column name")
        return value

    @property
    def text_columns(self) -> list[str]:
        return [self.text] if isinstance(self.text, str) else self.text


class ChunkingConfig(_Table):
    max_tokens: int | None = Field(default=None, ge=8)
    overlap: int = Field(default=32, ge=0)
    format: Literal["auto", "text", "markdown", "code"] = "auto"


class EmbeddingConfig(_Table):
    provider: Literal["local", "openai", "generic"] = "local"
    model: str = "all-MiniLM-L6-v2"
    dimensions: int | None = Field(default=None, ge=1, le=16384)
    template: str = "{text}"
    query_template: str = "{query}"
    base_url: str | None = None
    api_key_env: str = "OPENAI_API_KEY"
    organization: str | None = None
    project: str | None = None
    encoding_format: Literal["base64", "float"] = "base64"
    tokenizer: str | None = None
    max_input_tokens: int | None = Field(default=None, ge=8)
    price_per_million: float | None = Field(default=None, ge=0)

    @field_validator("base_url")
    @classmethod
    def _http(cls, value: str | None) -> str | None:
        if value is not None and not re.match(r"https?://[^/\s]+", value):
            raise ValueError("an http:// or https:// URL")
        return value.rstrip("/") if value else value


class BatchConfig(_Table):
    max_enqueued_tokens: int | None = Field(default=None, ge=1)
    budget_usd: float | None = Field(default=None, ge=0)
    max_attempts: int = Field(default=3, ge=1)
    inputs_per_request: int = Field(default=100, ge=1, le=2048)
    max_inputs: int = Field(default=50_000, ge=1, le=50_000)
    poll_s: float | None = Field(default=None, gt=0)
    listing_delay_s: float | None = Field(default=None, ge=0)
    claim_ttl_s: float | None = Field(default=None, gt=0)


class IndexConfig(_Table):
    metric: Literal["cosine"] = "cosine"
    target_recall: float = Field(default=0.95, gt=0, le=1)
    memory: int = 4 * 10**9

    @field_validator("memory", mode="before")
    @classmethod
    def _bytes(cls, value: object) -> object:
        return parse_size(value) if isinstance(value, str) else value


class EngineConfig(_Table):
    data: str | None = None


class ExecutorConfig(_Table):
    kind: Literal["local"] = "local"
    workers: int = Field(default=0, ge=0, description="0 means one per core")

    @property
    def count(self) -> int:
        return self.workers or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class CacheConfig(_Table):
    dir: str | None = None


class Config(_Table):
    """One configuration, complete and checked. `base` is the folder that relative paths start from."""

    store: str
    corpus: CorpusConfig
    chunking: ChunkingConfig = ChunkingConfig()
    embedding: EmbeddingConfig = EmbeddingConfig()
    batch: BatchConfig = BatchConfig()
    index: IndexConfig = IndexConfig()
    engine: EngineConfig = EngineConfig()
    executor: ExecutorConfig = ExecutorConfig()
    cache: CacheConfig = CacheConfig()
    base: Path = Field(default=Path(), exclude=True)

    def path(self, value: str) -> Path:
        """A path of the configuration, made absolute."""
        return (self.base / Path(value).expanduser()).resolve()

    @property
    def store_url(self) -> str:
        """The store as given if it is a URL, else an absolute directory."""
        return self.store if "://" in self.store else str(self.path(self.store))


def parse_size(value: str) -> int:
    """`"4GB"` to 4,000,000,000. Decimal units, as disks and providers count."""
    match = _SIZE.match(value)
    unit = match.group(2).lower().rstrip("b").rstrip("i") if match else "?"
    if not match or unit not in _UNITS:
        raise ValueError("a size such as 500MB or 4GB")
    return int(float(match.group(1)) * _UNITS[unit])


def load(path: Path, environ: Mapping[str, str] | None = None) -> Config:
    """Reads and checks a configuration file. Raises UsageError (no such file, not TOML) or ConfigError (a value)."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such configuration file", "write one with: embedfill init " + str(path)) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(
            f"{path}: {error}", "a configuration is a TOML file; embedfill init writes an example"
        ) from None
    return parse(raw, path.resolve().parent, str(path), environ)


def parse(raw: dict[str, Any], base: Path, source: str = "", environ: Mapping[str, str] | None = None) -> Config:
    """A configuration from plain values, with the environment laid over it."""
    if "base" in raw:
        raise ConfigError("base", raw["base"], "no such key", source)
    merged = _overlay(raw, os.environ if environ is None else environ)
    try:
        return Config(**merged, base=base)
    except ValidationError as error:
        raise _config_error(error, source) from None


def secret(name: str, environ: Mapping[str, str] | None = None) -> SecretStr | None:
    """The API key that the environment variable `name` holds; its repr shows stars."""
    value = (os.environ if environ is None else environ).get(name, "").strip()
    return SecretStr(value) if value else None


def _overlay(raw: dict[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    merged = {key: dict(value) if isinstance(value, dict) else value for key, value in raw.items()}
    for name, value in sorted(environ.items()):
        if not name.startswith(PREFIX):
            continue
        table, _, key = name.removeprefix(PREFIX).lower().partition("__")
        if table == "store" and not key:
            merged["store"] = value
        elif key and table in Config.model_fields and table not in ("store", "base"):
            _set(merged, table, key, _toml_value(value))
        else:
            raise ConfigError(
                name, value, "no such setting (EMBEDFILL_<TABLE>__<KEY>, or EMBEDFILL_STORE)", "environment"
            )
    return merged


def _set(merged: dict[str, Any], table: str, key: str, value: object) -> None:
    current = merged.setdefault(table, {})
    if not isinstance(current, dict):
        raise ConfigError(table, current, "a table")
    current[key] = value


def _toml_value(value: str) -> object:
    try:
        return tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        return value


def _config_error(error: ValidationError, source: str) -> ConfigError:
    first = error.errors(include_url=False)[0]
    places = [str(part) for part in first["loc"] if not str(part).startswith(("str", "list["))]
    key = ".".join(places) or "configuration"
    if first["type"] == "extra_forbidden":
        return ConfigError(key, first["input"], f"no such key; {_known(places[:-1])}", source)
    if first["type"] == "missing":
        return ConfigError(key, None, "is required", source)
    return ConfigError(key, first["input"], first["msg"].removeprefix("Value error, "), source)


def _known(table: list[str]) -> str:
    """The keys that are allowed where an unknown one stood."""
    fields = Config.model_fields
    if table and isinstance(kind := fields[table[0]].annotation, type) and issubclass(kind, BaseModel):
        fields = kind.model_fields
    return "known here: " + ", ".join(sorted(name for name in fields if name != "base"))
