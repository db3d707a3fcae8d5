"""What answers say, by the shapes of the endpoints' bodies: equal where they say the same."""

from typing import Any

import numpy as np
import orjson
import pybase64
import pytest

from embedfill.jobs.content import answer_text

NUMBERS = [0.1, -2.5]
RAW = pybase64.b64encode(np.array(NUMBERS, "<f4").tobytes()).decode()


def chat(**message: Any) -> dict[str, Any]:
    return {"id": "x", "created": 1, "choices": [{"index": 0, "message": {"role": "assistant", **message}}]}


@pytest.mark.parametrize(
    "body, text",
    [
        (chat(content="hello"), "hello"),
        ({"choices": [{"text": "one"}, {"text": "two"}]}, '["one","two"]'),
        ({"output": [{"type": "reasoning"}, {"type": "message", "content": [{"text": "a"}]}]}, "a"),
        ({"output": [{"type": "function_call", "id": "f", "name": "n"}]}, '{"name":"n","type":"function_call"}'),
        ({"id": "m", "results": [{"flagged": True}]}, '{"results":[{"flagged":true}]}'),
        ([1], "[1]"),
    ],
)
def test_what_an_answer_says(body: Any, text: str) -> None:
    assert answer_text(orjson.dumps(body).decode()) == text


def test_no_body_says_nothing() -> None:
    assert answer_text(None) is None


@pytest.mark.parametrize(
    "one, other, same",
    [
        (chat(content="a"), {**chat(content="a"), "id": "y", "created": 2, "usage": {"prompt_tokens": 9}}, True),
        (chat(content="a"), chat(content="b"), False),
        (
            chat(content=None, tool_calls=[{"id": "1", "f": 1}]),
            chat(content=None, tool_calls=[{"id": "2", "f": 1}]),
            True,
        ),
        (chat(content=None, tool_calls=[{"f": 1}]), chat(content=None, tool_calls=[{"f": 2}]), False),
        ({"data": [{"index": 0, "embedding": NUMBERS}]}, {"data": [{"index": 0, "embedding": RAW}]}, True),
        (
            {"data": [{"index": 1, "embedding": [2.0]}, {"index": 0, "embedding": [1.0]}]},
            {"data": [{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": [2.0]}]},
            True,
        ),
    ],
)
def test_equal_answers_have_equal_texts(one: Any, other: Any, same: bool) -> None:
    assert (answer_text(orjson.dumps(one).decode()) == answer_text(orjson.dumps(other).decode())) is same


@pytest.mark.parametrize(
    "body, text",
    [
        ("", ""),
        ('{"a":', '{"a":'),
        ('{"choices":[{"message":null}]}', '{"message":null}'),
        ('{"choices":[null]}', "null"),
        ('{"output":"said"}', "said"),
        ('{"output":["said"]}', "said"),
        ('{"output":[{"type":"message","content":"said"}]}', "said"),
        ('{"output":[{"type":"message","content":["said"]}]}', "said"),
        ('{"data":[{"embedding":[1],"index":null}]}', "[1.0]"),
        ('{"data":[{"embedding":[[1],[1,2]]}]}', "[[1],[1,2]]"),
        ('{"data":[{"embedding":"AAA="}]}', "AAA="),
        ('{"data":[{"embedding":null}]}', "null"),
    ],
)
def test_what_is_damaged_or_of_another_shape_is_compared_as_it_is(body: str, text: str) -> None:
    assert answer_text(body) == text
