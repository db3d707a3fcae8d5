"""Configuration: a TOML file, then the environment, checked by pydantic. Holds no secret: keys are named, not stored.

Every key of a table may be overridden by `EMBEDFILL_<TABLE>__<KEY>` (and `EMBEDFILL_STORE`), whose value is read as
TOML, else as a plain string. Relative paths are relative to the configuration file.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from embedfill import cores
from embedfill.errors import ConfigError, UsageError

PREFIX = "EMBEDFILL_"
_ENGINE_KEY = "EMBEDFILL_ENGINE_KEY"  # a secret of the engine's, not a setting
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?))?b?\s*", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_OVERLAP = 32

_OWN_PARAMETERS = frozenset({"model", "input", "dimensions", "output_dimension", "encoding_format", "output_dtype"})

Name = Annotated[str, Field(min_length=1)]
FLAG_ONLY = "only a flag"  # marks a setting that no file is to hold: it is not offered where one was misspelt
Scalar = str | int | float | bool
Checked = TypeVar("Checked", bound=BaseModel)


class Table(BaseModel):
    """Checked values under known keys."""

    # Strict: `true` is no number and "5" no five; TOML has types of its own.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class CorpusConfig(Table):
    """Which Parquet files, and which of their columns."""

    paths: list[Name] = Field(min_length=1)
    id: Name = "id"
    text: str | list[str] = "text"
    metadata: list[Name] = []

    @field_validator("paths", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @field_validator("text", mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        names = value if isinstance(value, list) else [value]
        if not names or not all(isinstance(name, str) and name for name in names):
            raise ValueError("must be a column name, or a list of them")
        return value

    @property
    def text_columns(self) -> list[str]:
        return [self.text] if isinstance(self.text, str) else self.text


class ChunkingConfig(Table):
    max_tokens: int | None = Field(default=None, ge=8)
    overlap: int = Field(default=_OVERLAP, ge=0)
    format: Literal["auto", "text", "markdown", "code"] = "auto"

    @model_validator(mode="before")
    @classmethod
    def _small_chunks_overlap_less(cls, values: object) -> object:
        """The default overlap is at most a quarter of a configured chunk."""
        if isinstance(values, dict) and isinstance(most := values.get("max_tokens"), int):
            return {"overlap": min(_OVERLAP, most // 4), **values}
        return values

    @field_validator("overlap")
    @classmethod
    def _leaves_room(cls, value: int, info: ValidationInfo) -> int:
        most = info.data.get("max_tokens")
        if most is not None and value > most // 2:
            raise ValueError(f"at most half of max_tokens, {most // 2}")
        return value


class EndpointConfig(Table):
    """Who runs the batches, and where. `api_key_env` names the variable that holds the key; None: the profile's own."""

    provider: Literal["local", "openai", "voyage", "dashscope", "doubleword", "azure", "generic"] = "local"
    base_url: str | None = None
    api_key_env: Name | None = None
    organization: Name | None = None
    project: Name | None = None

    @field_validator("base_url")
    @classmethod
    def _http(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"https?://[^/\s]+\S*", value):
            raise ValueError("an http:// or https:// URL")
        if value is not None and ("?" in value or "#" in value):
            raise ValueError("an http:// or https:// URL without a query: paths are appended to it")
        int(urlsplit(value or "").port or 0)  # raises ValueError for what no client could connect to
        return value.rstrip("/") if value else value


class EmbeddingConfig(EndpointConfig):
    model: Name = "all-MiniLM-L6-v2"
    dimensions: int | None = Field(default=None, ge=1, le=16384)
    template: str = "{text}"
    query_template: str = "{query}"
    encoding_format: Literal["base64", "float"] | None = None
    send_dimensions: bool | None = None
    options: dict[str, Scalar] = {}
    query_options: dict[str, Scalar] = {}
    tokenizer: Name | None = None
    max_input_tokens: int | None = Field(default=None, ge=8)
    special_tokens: Literal["text", "reject", "remove"] = "text"
    too_long: Literal["reject", "truncate"] = "reject"
    price_per_million: float | None = Field(default=None, ge=0)
    sync_price_per_million: float | None = Field(default=None, ge=0)

    @field_validator("options", "query_options")
    @classmethod
    def _only_what_has_no_key(cls, value: dict[str, Scalar]) -> dict[str, Scalar]:
        """A parameter that decides what comes back must stand where the rest of us reads it."""
        for name in value:
            if name in _OWN_PARAMETERS:
                raise ValueError(f"{name} has a key of its own in [embedding], or cannot be chosen")
        return value


class BatchConfig(Table):
    tier: int | None = Field(default=None, ge=1, le=5)
    max_enqueued_tokens: int | None = Field(default=None, ge=1)
    max_enqueued_requests: int | None = Field(default=None, ge=1)
    completion_window: str | None = None
    endpoint: str | None = Field(default=None, pattern=r"^/[\w/.-]+$")
    budget_usd: float | None = Field(default=None, ge=0)
    max_attempts: int = Field(default=3, ge=1)
    inputs_per_request: int = Field(default=100, ge=1, le=2048)
    max_inputs: int = Field(default=50_000, ge=1, le=1_000_000)
    poll_s: float | None = Field(default=None, gt=0)
    listing_delay_s: float | None = Field(default=None, ge=0)
    claim_ttl_s: float | None = Field(default=None, gt=0)
    lost_after_s: float | None = Field(default=None, ge=0)

    @field_validator("completion_window")
    @classmethod
    def _time(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[1-9]\d*[mhd]", value):
            raise ValueError("a time such as 24h or 7d")
        return value


class IndexConfig(Table):
    metric: Literal["cosine"] = "cosine"
    target_recall: float = Field(default=0.95, gt=0, le=1)
    memory: int = Field(default=4 * 10**9, ge=1)

    @field_validator("memory", mode="before")
    @classmethod
    def _bytes(cls, value: object) -> object:
        return parse_size(value) if isinstance(value, str) else value


class EngineConfig(Table):
    data: Name | None = None


class ExecutorConfig(Table):
    kind: Literal["local"] = "local"
    workers: int = Field(default=0, ge=0, le=256, description="0 means one per core")

    @property
    def count(self) -> int:
        return self.workers or cores.available()


class CacheConfig(Table):
    dir: Name | None = None


class Config(Table):
    """One configuration, complete and checked. `base` is the folder that relative paths start from."""

    store: Name
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
        return (self.base / os.path.expanduser(value)).resolve()  # noqa: PTH111 - Path's raises for an unknown ~name

    @property
    def store_url(self) -> str:
        """The store as given if it is a URL, else an absolute directory."""
        return self.store if "://" in self.store else str(self.path(self.store))


def parse_size(value: str) -> int:
    """`"4GB"` to 4,000,000,000, as disks and providers count; `"4GiB"` to 4,294,967,296."""
    match = _SIZE.fullmatch(value)
    if not match:
        raise ValueError("a size such as 500MB or 4GB")
    number, unit, binary = match.groups(default="")
    return int(float(number) * (1024 if binary else 1000) ** _POWERS[unit.lower()])


def load(path: Path, environ: Mapping[str, str] | None = None) -> Config:
    """Reads and checks a configuration file. Raises UsageError (no such file, not TOML) or ConfigError (a value)."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8-sig"))
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
    environ = os.environ if environ is None else environ
    merged = overlay(raw, environ, Config)
    return checked(Config, {**merged, "base": base}, source, environ)


def checked(kind: type[Checked], values: Mapping[str, Any], source: str, environ: Mapping[str, str]) -> Checked:
    """The values as a table or a whole configuration of that kind. Raises ConfigError naming what is wrong."""
    try:
        return kind(**values)
    except ValidationError as error:
        raise _config_error(error, kind, source, environ) from None


def secret(name: str, environ: Mapping[str, str] | None = None) -> SecretStr | None:
    """The API key that the environment variable `name` holds; its repr shows stars."""
    value = (os.environ if environ is None else environ).get(name, "").strip()
    return SecretStr(value) if value else None


def overlay(raw: Mapping[str, Any], environ: Mapping[str, str], kind: type[BaseModel]) -> dict[str, Any]:
    """Plain values with the environment's laid over them. Raises ConfigError for a setting that `kind` does not have."""
    merged = {key: dict(value) if isinstance(value, dict) else value for key, value in raw.items()}
    tables = {name for name, field in kind.model_fields.items() if _is_table(field.annotation)}
    plain = kind.model_fields.keys() - tables - {"base"}
    for name, value in sorted(environ.items()):
        if not name.startswith(PREFIX) or name == _ENGINE_KEY:
            continue
        table, _, key = name.removeprefix(PREFIX).lower().partition("__")
        if table in plain and not key:
            merged[table] = value if table == "store" else _toml_value(value)
        elif key and table in tables:
            _set(merged, table, key, _toml_value(value))
        else:
            others = "".join(f", or {PREFIX}{one.upper()}" for one in sorted(plain))
            allowed = f"no such setting here ({PREFIX}<TABLE>__<KEY> of {', '.join(sorted(tables))}{others})"
            raise ConfigError(name, value, allowed, "environment")
    return merged


def _is_table(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


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


def _config_error(
    error: ValidationError, kind: type[BaseModel], source: str, environ: Mapping[str, str]
) -> ConfigError:
    """The most telling of pydantic's errors (a misspelt key before the one it leaves missing), in our words."""
    found = error.errors(include_url=False)
    first = next((one for one in found if one["type"] == "extra_forbidden"), found[0])
    places = [str(part) for part in first["loc"]]
    value = None if first["type"] == "missing" else first["input"]
    return ConfigError(".".join(places), value, _allowed(first, places, kind), _origin(places, source, environ))


def _allowed(error: ErrorDetails, places: list[str], kind: type[BaseModel]) -> str:
    match error["type"]:
        case "extra_forbidden":
            return f"no such key; {_known(places, kind)}"
        case "missing":
            return "is required"
        case "model_type":
            return "must be a table"
        case _:
            return error["msg"].removeprefix("Value error, ")


def _origin(places: list[str], source: str, environ: Mapping[str, str]) -> str:
    """Where the value came from: an environment variable stands over the file."""
    names = {PREFIX + "__".join(places[:count]).upper() for count in (1, 2)}
    return next((f"the environment ({given})" for given in environ if given.upper() in names), source)


def _known(places: list[str], whole: type[BaseModel]) -> str:
    """The keys that are allowed where an unknown one stood, and the one that was meant."""
    fields = _inside(whole, places[:-1]).model_fields
    names = sorted(name for name, field in fields.items() if name != "base" and FLAG_ONLY not in field.metadata)
    meant = difflib.get_close_matches(places[-1], names, n=1)
    return (f"did you mean {meant[0]}? " if meant else "") + "known here: " + ", ".join(names)


def _inside(whole: type[BaseModel], places: list[str]) -> type[BaseModel]:
    """The kind of the table at a place: tables stand in tables, also under free names and in lists."""
    found = whole
    current: Any = whole
    for place in places:
        fields = current.model_fields if _is_table(current) else None
        inner = fields[place].annotation if fields is not None else get_args(current)[-1:]
        current = inner[0] if isinstance(inner, tuple) and inner else inner
        found = current if _is_table(current) else found
    return found
