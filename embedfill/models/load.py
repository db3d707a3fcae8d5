"""Loads a local model by name, once per process. Knows no remote model."""

import functools
import threading

from embedfill.errors import ConfigError
from embedfill.models import known
from embedfill.models.base import Model

_LOCK = threading.Lock()


def load(name: str, threads: int = 0) -> Model:
    """The local model of this name, shared by all callers. `threads` 0 means every core that is given.

    Raises ConfigError for a name that is no local model, ModelError where its packages are missing or damaged.
    """
    with _LOCK:  # two threads would load the weights twice
        return _load(name, threads)


@functools.cache
def _load(name: str, threads: int) -> Model:
    # Imported here: neither model needs the packages of the other.
    if name == "all-MiniLM-L6-v2":
        from embedfill.models.minilm import MiniLM

        return MiniLM(threads)
    if name == "wordllama-256":
        from embedfill.models.static import StaticModel

        return StaticModel()
    raise ConfigError("embedding.model", name, f"the local models are {', '.join(known.LOCAL)}")
