"""The static model: means of token vectors, fast for many short texts, never NaN."""

import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("tokenizers")
pytest.importorskip("wordllama")

from embedfill.models.base import Model, shorten
from embedfill.models.load import load
from embedfill.models.static import StaticModel

TEXTS = [
    "open a file",
    "",
    "The cat sat on the mat.",
    "word " * 5_000,
    "</s>",
    "日本",
    *(f"text {n}" for n in range(3000)),
]


@pytest.fixture(scope="module")
def model() -> Model:
    return load("wordllama-256")


def test_unit_vectors_in_order(model: Model) -> None:
    together = model.embed(TEXTS)
    assert together.shape == (len(TEXTS), 256)
    assert together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, rtol=1e-5)
    sample = [0, 1, 2, 3, 4, 5, 6, 1000, len(TEXTS) - 1]
    alone = np.vstack([model.embed([TEXTS[row]]) for row in sample])
    np.testing.assert_allclose(together[sample], alone, atol=1e-6)


def test_a_vector_is_the_mean_of_its_tokens() -> None:
    model = StaticModel()
    ids = model._tokenizer.ids(["The cat sat on the mat."])[0]
    mean = model._table[ids].mean(axis=0)
    np.testing.assert_allclose(model.embed(["The cat sat on the mat."])[0], mean / np.linalg.norm(mean), atol=1e-6)


def test_equals_the_library_of_the_weights(model: Model) -> None:
    """In a process of its own: the library sets up logging for everyone."""
    text = "The cat sat on the mat."
    script = f"""
import json, numpy as np, wordllama.inference, wordllama, pathlib
from tokenizers import Tokenizer
from embedfill.models.static import read_tensor
root = pathlib.Path(wordllama.__file__).parent
table = np.array(read_tensor(root / "weights/l2_supercat_256.safetensors", "embedding.weight"))
tokenizer = Tokenizer.from_file(str(root / "tokenizers/l2_supercat_tokenizer_config.json"))
library = wordllama.inference.WordLlamaInference(table, tokenizer)
print(json.dumps(library.embed([{text!r}], norm=True)[0].tolist()))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    theirs = np.array(__import__("json").loads(done.stdout))
    np.testing.assert_allclose(model.embed([text])[0], theirs, atol=1e-5)


def test_nothing_to_embed_is_the_first_axis_and_never_nan(model: Model) -> None:
    vector = model.embed(["", "a", ""])
    assert vector[0].tolist() == vector[2].tolist() == [1.0] + [0.0] * 255
    assert model.embed([]).shape == (0, 256)


def test_token_ids_are_the_text(model: Model) -> None:
    ids = StaticModel()._tokenizer.ids(["open a file"])[0]
    by_ids, by_text = model.embed([ids, "open a file"])
    np.testing.assert_array_equal(by_ids, by_text)
    assert np.isfinite(model.embed([[10**9, -5]])).all()


def test_shorter_dimensions(model: Model) -> None:
    full = model.embed(TEXTS[:3])
    for dimensions in model.shorter_dimensions:
        short = shorten(full, dimensions)
        assert short.shape == (3, dimensions)
        np.testing.assert_allclose(np.linalg.norm(short, axis=1), 1, rtol=1e-5)
        np.testing.assert_allclose(short[0], full[0, :dimensions] / np.linalg.norm(full[0, :dimensions]), rtol=1e-5)
    assert shorten(full, 256) is full


def test_many_short_texts_are_fast(model: Model) -> None:
    texts = [f"A short text number {n} about something." for n in range(20_000)]
    started = time.process_time()
    model.embed(texts)
    assert time.process_time() - started < 4  # about 0.6 when nothing else runs


def test_neither_the_library_nor_its_dependencies_are_imported() -> None:
    script = "import sys; from embedfill.models.load import load; load('wordllama-256').embed(['x']); " + (
        "print(sorted({'wordllama', 'requests', 'safetensors', 'onnxruntime'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
