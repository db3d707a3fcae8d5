"""Prompt tokens and inputs of a batch's requests, counted together or one by one, with or without a tokenizer."""

from typing import Any

import pytest

from embedfill.engine.work import prompts as prompts_module
from embedfill.engine.work.prompts import Prompts
from embedfill.models.tokenizers import load
from tests.engine_fixtures import STATIC

TEXTS = ["some words", "日本 <|endoftext|>", "a" * 50]


def _counted(endpoint: str, model: str, *bodies: dict[str, Any]) -> tuple[int, int]:
    prompts = Prompts(endpoint, counts_tokens=True)
    for body in bodies:
        prompts.add(model, body)
    return prompts.inputs, prompts.tokens()


@pytest.mark.parametrize(
    ("model", "tokenizer"),
    [(STATIC, STATIC), ("text-embedding-3-small", "cl100k_base"), ("text-embedding-3-large", "cl100k_base")],
)
def test_embeddings_are_counted_exactly(model: str, tokenizer: str) -> None:
    core = load(tokenizer)
    expected = sum(core.count(TEXTS)) + len(TEXTS) * core.special_tokens
    bodies = [{"input": TEXTS[:2]}, {"input": TEXTS[2]}, {"input": [[1, 2, 3], [4]]}, {"input": [7, 8]}]
    assert _counted("/v1/embeddings", model, *bodies) == (6, expected + 6)


def test_groups_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    bodies = [{"input": [text, f"{number}"]} for number in range(20) for text in TEXTS]
    whole = _counted("/v1/embeddings", STATIC, *bodies)
    monkeypatch.setattr(prompts_module, "_GROUP_CHARS", 30)
    assert _counted("/v1/embeddings", STATIC, *bodies) == whole


def test_a_long_text_is_counted_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "word " * 1_000
    whole = _counted("/v1/embeddings", STATIC, {"input": text})
    monkeypatch.setattr(prompts_module, "_PIECE_CHARS", 100)
    assert whole[1] <= _counted("/v1/embeddings", STATIC, {"input": text})[1] <= whole[1] * 1.05


def test_chats_are_estimated() -> None:
    body = {"messages": [{"role": "user", "content": "some words"}], "max_tokens": 1_000}
    inputs, tokens = _counted("/v1/chat/completions", "gpt-4o-mini", body)
    assert inputs == 1 and 2 <= tokens <= 20  # the prompt's, not the answer's


def test_without_a_tokenizer_bytes_are_counted() -> None:
    assert _counted("/v1/completions", "a-model-of-somebody", {"prompt": "x" * 300}) == (1, 100)


def test_tokens_may_be_left_uncounted() -> None:
    prompts = Prompts("/v1/embeddings", counts_tokens=False)
    prompts.add(STATIC, {"input": TEXTS})
    assert (prompts.inputs, prompts.tokens()) == (3, 0)
