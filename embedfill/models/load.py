"""Loads local models: those with names of their own, once per process, and those in a directory. Knows no remote one."""

import functools
import threading
from pathlib import Path
from typing import Literal

from embedfill.errors import ConfigError
from embedfill.models import known
from embedfill.models.base import Model
from embedfill.models.layout import Pooling

Kind = Literal["onnx", "sentence-transformers"]

_LOCK = threading.Lock()


def load(name: str, threads: int = 0, device: str = "auto") -> Model:
    """The local model of this name, shared by all callers. `threads` 0 means every core that is given, and more than
    those are never taken; `device` is one of `models.devices`.

    Raises ConfigError for a name that is no local model, ModelError where its packages are missing or damaged.
    """
    with _LOCK:  # two threads would load the weights twice
        return _load(name, threads, device)


def offered() -> tuple[str, ...]:
    """The local models by name, without one that this machine cannot compute or whose own package is missing."""
    from embedfill.models import int8

    return tuple(name for name in known.LOCAL if name != int8.NAME or int8.possible())


def open_model(
    name: str,
    path: Path,
    kind: Kind = "onnx",
    max_tokens: int | None = None,
    pooling: Pooling | None = None,
    threads: int = 0,
    device: str = "auto",
) -> Model:
    """The model in a directory, under a name of the caller's. `max_tokens` and `pooling`: where its files do not tell.
    Raises ModelError where something is missing, ConfigError for what the model does not allow."""
    if name in known.KNOWN:
        raise ConfigError("engine.models", name, "is the name of a model that is known already; give another")
    if kind == "onnx":
        from embedfill.models.onnx import open_onnx

        return open_onnx(name, path, max_tokens, pooling, threads, device)
    from embedfill.models.transformers import open_transformer

    return open_transformer(name, path, max_tokens, threads, device)


@functools.cache
def _load(name: str, threads: int, device: str) -> Model:
    # Imported here: no model needs the packages of another.
    if name == "all-MiniLM-L6-v2":
        from embedfill.models.minilm import open_minilm

        return open_minilm(threads, device)
    if name == "all-MiniLM-L6-v2-int8":
        from embedfill.models.int8 import open_int8

        return open_int8(threads)
    if name == "wordllama-256":
        from embedfill.models.static import StaticModel

        return StaticModel()
    raise ConfigError("embedding.model", name, f"the local models are {', '.join(known.LOCAL)}")
