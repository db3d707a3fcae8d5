"""What the engine's settings come to: whether they can be used, and how they may be shown. Changes nothing."""

from typing import Any

from embedfill.batchapi.windows import window_s
from embedfill.engine.address import check_host
from embedfill.engine.owners import DEFAULT
from embedfill.engine.relay.upstream import Route
from embedfill.engine.settings import EngineSettings, KeySettings
from embedfill.engine.state.allowance import allowance_of
from embedfill.engine.work import rehearsal
from embedfill.engine.work.local_models import makers
from embedfill.engine.work.webhooks import hooks_of
from embedfill.errors import ConfigError
from embedfill.masks import masked


def check(settings: EngineSettings) -> None:
    """Raises UsageError, ConfigError for what would not run; before a directory is made or a port is taken."""
    check_host(settings)
    allowance_of(settings.limits)
    hooks_of(settings.webhooks)
    for pattern, route in settings.routes.items():
        Route(pattern, route)
    for name in settings.rehearse:
        rehearsal.maker(name)
    for window in settings.windows:
        if window_s(window) is None:
            raise ConfigError("engine.windows", window, "a time such as 24h or 7d")
    _check_models(settings)


def shown(settings: EngineSettings) -> dict[str, Any]:
    """Every setting by its dotted name; of keys only where they come from."""
    values = masked("", settings.model_dump(mode="json", exclude={"keys", "log_level"}))
    keys = {owner: [_source(key) for key in keys] for owner, keys in settings.keys.items()}
    if settings.api_key is not None:
        keys.setdefault(DEFAULT, []).append("given at the start")
    flat = _flat("", values) | {"log_level": settings.level} | {f"keys.{owner}": found for owner, found in keys.items()}
    return {name: value for name, value in flat.items() if value is not None}


def _check_models(settings: EngineSettings) -> None:
    names = [*dict(makers(settings)), *settings.rehearse]
    for name in settings.preload:
        if name not in names:
            raise ConfigError("engine.preload", name, f"no local model of that name; there are: {', '.join(names)}")


def _source(key: KeySettings) -> str:
    return f"${key.env}" if key.env else "a hash"


def _flat(name: str, value: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    if not isinstance(value, dict) or not value:
        return {name: value}
    found: dict[str, Any] = {}
    for key, one in value.items():
        found |= _flat(f"{name}.{key}" if name else key, one)
    return found
