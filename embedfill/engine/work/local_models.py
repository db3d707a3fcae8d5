"""The models of the user's own, as settings name them: checked at the start, loaded when they are first asked for."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from embedfill.engine.settings import EngineSettings, ModelSettings
from embedfill.engine.telemetry import logs
from embedfill.errors import ConfigError, ModelError
from embedfill.models import layout
from embedfill.models.base import Model
from embedfill.models.known import KNOWN
from embedfill.models.load import load, offered, open_model

Maker = Callable[[], Model]


def makers(settings: EngineSettings) -> Iterator[tuple[str, Maker]]:
    """Name and loader of each local model: those with names of their own, and those of the settings. Raises
    ConfigError for a directory that is not there or lacks its files, or a name that is taken."""
    for name in offered():
        yield name, partial(_told, partial(load, name, settings.threads, settings.device))
    for name, model in settings.models.items():
        _check(name, model)
        yield name, partial(_told, partial(_open, name, model, settings))


def _check(name: str, model: ModelSettings) -> None:
    if name in KNOWN:
        raise ConfigError(f"engine.models.{name}", model.path, "this name is another model's; give one of your own")
    key, path = f"engine.models.{name}.path", Path(model.path)
    if not path.exists():
        raise ConfigError(key, model.path, "there is no such directory")
    try:
        layout.read(path)
        if model.kind == "onnx":
            layout.onnx_file(path)
    except ModelError as error:
        raise ConfigError(key, model.path, f"{error.message}; {error.hint}") from None


def _open(name: str, model: ModelSettings, settings: EngineSettings) -> Model:
    return open_model(
        name, Path(model.path), model.kind, model.max_tokens, model.pooling, settings.threads, settings.device
    )


def _told(make: Maker) -> Model:
    model = make()
    logs.info("model loaded", model=model.name, device=getattr(model, "device", "cpu"), dimensions=model.dimensions)
    return model
