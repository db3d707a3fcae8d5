"""The choice of a device: a GPU where a runtime offers one, the CPU else, and a clear word where it cannot be."""

import pytest

from embedfill.errors import ConfigError
from embedfill.models.devices import choose, of_providers

ALL = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CoreMLExecutionProvider", "CPUExecutionProvider"]


def test_providers_have_names() -> None:
    assert of_providers(ALL) == ["cuda", "coreml", "cpu"]
    assert of_providers(["AzureExecutionProvider", "CPUExecutionProvider"]) == ["cpu"]


@pytest.mark.parametrize(
    ("device", "offered", "expected"),
    [
        ("auto", [], "cpu"),
        ("auto", ["cpu"], "cpu"),
        ("auto", ["cpu", "cuda"], "cuda"),
        ("auto", ["rocm"], "rocm"),
        ("auto", ["migraphx", "cpu"], "migraphx"),
        ("auto", ["directml"], "directml"),
        ("auto", ["mps"], "mps"),
        ("auto", ["coreml", "cpu"], "cpu"),  # other vectors, so only on demand
        ("coreml", ["coreml", "cpu"], "coreml"),
        ("cpu", ["cuda", "cpu"], "cpu"),
        ("cuda", ["cpu", "cuda"], "cuda"),
    ],
)
def test_the_fastest_that_is_there_or_the_one_that_is_asked_for(device: str, offered: list[str], expected: str) -> None:
    assert choose(device, offered) == expected


def test_one_that_is_not_there_is_refused_with_what_is() -> None:
    with pytest.raises(ConfigError, match=r"engine\.device = 'cuda': what there is: cpu, directml, or auto"):
        choose("cuda", ["directml"])
