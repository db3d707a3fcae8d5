"""What a job needs to know besides its requests: who runs the batches, how, and at what price. Holds no secret."""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from embedfill.config import BatchConfig, CacheConfig, EndpointConfig, Name, Table, checked, overlay
from embedfill.errors import ConfigError, UsageError


class JobPrice(Table):
    """USD per million tokens of a model in a batch; what it generates costs nothing where it generates nothing."""

    input: float = Field(ge=0)
    output: float = Field(default=0.0, ge=0)


class JobBatchConfig(BatchConfig):
    """As for embeddings, but a refused request is not tried again: a 400 is about the request, so the same request
    meets it again, a day later. (What failed by the provider's own fault goes out again in any case.)"""

    max_attempts: int = Field(default=1, ge=1)

    @field_validator("endpoint", "inputs_per_request")
    @classmethod
    def _not_here(cls, value: object) -> object:
        raise ValueError("no setting of a job: its requests say what they hold, and --endpoint where they go")


class JobConfig(Table):
    """`assume_output_tokens`: what a request without a limit of its own may generate, `assume_media_tokens`: what an
    image, a recording or a file in a prompt may come to; for prices, limits and the budget."""

    provider: EndpointConfig = EndpointConfig()
    batch: JobBatchConfig = JobBatchConfig()
    prices: dict[Name, JobPrice] = Field(default_factory=dict)
    cache: CacheConfig = CacheConfig()
    assume_output_tokens: int | None = Field(default=None, ge=0)
    assume_media_tokens: int | None = Field(default=None, ge=0)
    base: Path = Field(default=Path(), exclude=True)


def load_job(
    path: Path | None,
    flags: Mapping[str, Mapping[str, Any]] | None = None,
    environ: Mapping[str, str] | None = None,
) -> JobConfig:
    """The configuration file, if there is one, then the environment, with `flags` laid over it: table -> key -> value,
    None for not given (the table "" stands for the top). Raises UsageError and ConfigError."""
    raw = _read(path) if path else {}
    if "base" in raw:
        raise ConfigError("base", raw["base"], "no such key", str(path))
    environ = os.environ if environ is None else environ
    raw = overlay(raw, environ, JobConfig)
    named: dict[str, str] = {}
    for table, values in (flags or {}).items():
        given = {key: value for key, value in values.items() if value is not None}
        named |= {f"{table}.{key}".lstrip("."): "--" + key.replace("_", "-") for key in given}
        if not table:
            raw |= given
        elif given:
            raw[table] = {**_table(raw, table), **given}
    base = path.resolve().parent if path else Path.cwd()
    try:
        return checked(JobConfig, {**raw, "base": base}, str(path or ""), environ)
    except ConfigError as error:
        if error.key not in named:
            raise
        raise ConfigError(named[error.key], error.value, error.allowed) from None


def cache_root(config: JobConfig) -> Path | None:
    """The configured cache folder, or None for the usual one."""
    if config.cache.dir is None:
        return None
    return (config.base / os.path.expanduser(config.cache.dir)).resolve()  # noqa: PTH111 - Path's raises for ~unknown


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        words = (error.strerror or error) if isinstance(error, OSError) else error
        raise UsageError(f"{path}: {words}", "give a TOML file with the tables [provider], [batch], [prices]") from None


def _table(raw: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = raw.get(name, {})
    if not isinstance(found, dict):
        raise ConfigError(name, found, "must be a table")
    return found
