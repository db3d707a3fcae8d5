"""Which device a model runs on: a GPU where its runtime offers one, else the CPU. Chooses by name; loads no runtime."""

from collections.abc import Iterable
from typing import Literal

from embedfill.errors import ConfigError

Device = Literal["auto", "cpu", "cuda", "rocm", "migraphx", "directml", "coreml", "mps"]

# What ONNX Runtime calls them.
PROVIDERS = {
    "cuda": "CUDAExecutionProvider",
    "rocm": "ROCMExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
# CoreML only on demand: it is in every wheel for a Mac, and computes in 16 bits, which are other vectors.
_BY_ITSELF = ("cuda", "rocm", "migraphx", "directml", "mps", "cpu")


def choose(device: str, offered: Iterable[str]) -> str:
    """The device to use of those `offered`, for `auto` the fastest. Raises ConfigError for one that is not there."""
    there = {*offered, "cpu"}
    if device == "auto":
        return next(name for name in _BY_ITSELF if name in there)
    if device not in there:
        raise ConfigError("engine.device", device, f"what there is: {', '.join(sorted(there))}, or auto")
    return device


def of_providers(providers: Iterable[str]) -> list[str]:
    """The devices that these providers of ONNX Runtime stand for, in their order."""
    names = {provider: name for name, provider in PROVIDERS.items()}
    return [names[provider] for provider in providers if provider in names]
