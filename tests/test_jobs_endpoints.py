"""What bodies of each endpoint come to: texts to count, tokens they may generate, usage of answers."""

from typing import Any

import pytest

from embedfill.jobs.endpoints import ENDPOINTS, UNKNOWN, usage_of
from embedfill.jobs.tokens import Counter
from embedfill.models import tokenizers

CHAT, RESPONSES, COMPLETIONS, EMBEDDINGS, MODERATIONS = ENDPOINTS


@pytest.mark.parametrize(
    "endpoint, body, output",
    [
        (CHAT, {"messages": [], "max_completion_tokens": 5, "max_tokens": 9}, 5),
        (CHAT, {"messages": [], "max_tokens": 9, "n": 3}, 27),
        (CHAT, {"messages": []}, UNKNOWN),
        (RESPONSES, {"input": "x", "max_output_tokens": 8}, 8),
        (RESPONSES, {"input": "x"}, UNKNOWN),
        (COMPLETIONS, {"prompt": "x"}, 16),
        (COMPLETIONS, {"prompt": ["x", "y"], "max_tokens": 4, "best_of": 3}, 24),
        (EMBEDDINGS, {"input": "x"}, 0),
        (MODERATIONS, {"input": "x"}, 0),
    ],
)
def test_what_a_request_may_generate(endpoint: str, body: dict[str, Any], output: int) -> None:
    assert ENDPOINTS[endpoint].measure(body).output_tokens == output


@pytest.mark.parametrize(
    "endpoint, body, texts, tokens, inputs",
    [
        (EMBEDDINGS, {"input": ["a", "b"]}, ["a", "b"], 0, 2),
        (EMBEDDINGS, {"input": [1, 2, 3]}, [], 3, 1),
        (EMBEDDINGS, {"input": [[1, 2], [3]]}, [], 3, 2),
        (MODERATIONS, {"input": [{"type": "text", "text": "a"}]}, ["a"], 0, 1),
        (
            CHAT,
            {"messages": [{"role": "user", "content": "a"}, {"content": [{"type": "text", "text": "b"}]}]},
            ["a", "b"],
            11,
            1,
        ),
        (CHAT, {"messages": [{"content": None, "tool_calls": [1]}], "tools": [2]}, ["[1]", "[2]"], 7, 1),
        (RESPONSES, {"input": [{"content": [{"text": "b"}]}], "instructions": "a"}, ["b", "a"], 11, 1),
        (CHAT, {"messages": "no list"}, [], 3, 1),
    ],
)
def test_what_is_counted(endpoint: str, body: dict[str, Any], texts: list[str], tokens: int, inputs: int) -> None:
    found = ENDPOINTS[endpoint].measure(body)
    assert (found.texts, found.tokens, found.inputs) == (texts, tokens, inputs)


def test_answers_of_embeddings_have_a_known_size() -> None:
    measure = ENDPOINTS[EMBEDDINGS].measure
    small = measure({"model": "text-embedding-3-small", "input": ["a"] * 10, "encoding_format": "base64"})
    assert 10 * 1536 * 4 * 4 / 3 < small.answer_bytes < measure({"model": "?", "input": ["a"] * 10}).answer_bytes


@pytest.mark.parametrize(
    "usage, tokens",
    [
        ({"prompt_tokens": 3, "completion_tokens": 2}, (3, 2)),
        ({"input_tokens": 3, "output_tokens": 2}, (3, 2)),
        ({"prompt_tokens": 3, "total_tokens": 3}, (3, 0)),
        (None, (0, 0)),
    ],
)
def test_usage_by_any_name(usage: object, tokens: tuple[int, int]) -> None:
    assert usage_of({"usage": usage}) == tokens


def test_counts_are_exact_where_the_tokenizer_is_the_models_and_say_so() -> None:
    texts = ["one two three", "日本語", ""]
    counter = Counter(EMBEDDINGS)
    requests = [ENDPOINTS[EMBEDDINGS].measure({"input": [text, text]}) for text in texts]
    exact = [2 * count for count in tokenizers.load("cl100k_base").count(texts)]
    assert counter.count("text-embedding-3-small", requests).tolist() == exact
    chat = Counter(CHAT)
    chat.count("gpt-4o-mini", [])
    chat.count("ft:gpt-4-0613:me", [])
    assert chat.how == {"gpt-4o-mini": "estimated with o200k_base", "ft:gpt-4-0613:me": "estimated with cl100k_base"}
    assert counter.how == {"text-embedding-3-small": "exact"}


def test_the_guess_for_an_unknown_model_is_rather_too_high() -> None:
    text = "An ordinary sentence of English prose, of the kind that people write to each other every day. " * 20
    guess = Counter(CHAT).count("somebodys-model", [ENDPOINTS[EMBEDDINGS].measure({"input": text})])[0]
    assert guess >= tokenizers.load("cl100k_base").count([text])[0]


@pytest.mark.parametrize(
    "endpoint, body, media",
    [
        (CHAT, {"messages": [{"content": [{"type": "image_url", "image_url": {"url": "x"}}, {"text": "a"}]}] * 2}, 2),
        (CHAT, {"messages": [{"content": "a", "audio": None}]}, 0),
        (RESPONSES, {"input": [{"content": [{"type": "input_file", "file_id": "f"}]}], "conversation": "c"}, 2),
        (RESPONSES, {"input": "x", "prompt": {"id": "p"}}, 1),
        (MODERATIONS, {"input": [{"type": "image_url", "image_url": {"url": "x"}}]}, 1),
        (EMBEDDINGS, {"input": ["image_url"]}, 0),
    ],
)
def test_what_cannot_be_counted_here(endpoint: str, body: dict[str, Any], media: int) -> None:
    assert ENDPOINTS[endpoint].measure(body).media == media
