"""Special tokens in texts: what their written forms are, and that none is left when they are taken out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfill.chunker.special import special_words
from embedfill.models import tokenizers

NAMES = ["cl100k_base", "o200k_base", "all-MiniLM-L6-v2", "wordllama-256"]


@pytest.mark.parametrize(
    ("name", "some"),
    [
        ("cl100k_base", {"<|endoftext|>", "<|fim_prefix|>", "<|endofprompt|>"}),
        ("o200k_base", {"<|endoftext|>", "<|endofprompt|>"}),
        ("all-MiniLM-L6-v2", {"[CLS]", "[SEP]", "[MASK]", "[PAD]", "[UNK]"}),
        ("wordllama-256", {"<s>", "</s>", "<unk>"}),
    ],
)
def test_each_tokenizer_has_its_own(name: str, some: set[str]) -> None:
    assert some <= set(special_words(name).words)


@pytest.mark.parametrize("name", NAMES)
def test_each_is_read_as_several_ordinary_tokens(name: str) -> None:
    """As embeddings endpoints do: with the one special token instead, counts and prices would be too low."""
    words = special_words(name).words
    assert all(count > 1 for count in tokenizers.load(name).count(list(words)))


pieces = st.sampled_from(["<|endoftext|>", "<|endo", "ftext|>", "<|fim_prefix|>", "[CLS]", "<|", "|>", "a", " ", "é"])


@given(st.lists(pieces, max_size=12).map("".join))
def test_none_is_left_and_nothing_else_is_lost(text: str) -> None:
    special = special_words("cl100k_base")
    left = special.without(text)
    assert special.find(left) is None
    assert left == text or special.find(text) is not None
    assert left.count("a") <= text.count("a") and left.count("é") == text.count("é")


def test_one_that_comes_about_by_taking_out_another_goes_too() -> None:
    assert special_words("cl100k_base").without("a <|endo<|endoftext|>ftext|>b") == "a b"
