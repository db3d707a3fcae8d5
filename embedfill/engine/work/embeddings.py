"""What /v1/embeddings asks for and answers: one request body to inputs, vectors to a response body. Runs no model."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import orjson
import pybase64

from embedfill.batchapi.limits import LOCAL
from embedfill.engine.refusal import refused
from embedfill.errors import RefusedError
from embedfill.models.base import Model, Vectors, shorten

Input = str | tuple[int, ...]
_MAX_TOKEN = 1 << 31
# What a text may have before it is tokenized: far more than fits into any model's tokens, and little enough that no
# text keeps a tokenizer busy. (8 MB took tens of seconds and gigabytes, only to be refused for its tokens.)
_TEXT_BYTES = 65_536
_TOKEN_BYTES = 128


class EmbeddingRequest(NamedTuple):
    """A checked request. `dimensions` is None for the model's own. (Named tuples: a batch makes tens of thousands of
    these, and frozen dataclasses take three times as long.)"""

    model: str
    inputs: list[Input]
    base64: bool
    dimensions: int | None


class Embedded(NamedTuple):
    """Vectors of one request, float32, shape (inputs, dimensions of the model), and the tokens they took."""

    vectors: Vectors
    tokens: int


def parse(body: object, model: Model) -> EmbeddingRequest:
    """Checks a request body for `model`. Raises RefusedError (400) as the API answers it."""
    if not isinstance(body, dict):
        raise refused("The request body must be a JSON object.", None)
    encoding = body.get("encoding_format")
    if encoding not in (None, "float", "base64"):
        raise refused("encoding_format must be 'float' or 'base64'.", "encoding_format")
    return EmbeddingRequest(model.name, _inputs(body, model), encoding == "base64", _dimensions(body, model))


def render(request: EmbeddingRequest, answer: Embedded) -> dict[str, Any]:
    """The response body. Vectors stay numpy arrays where floats are asked for: `dumps` writes them."""
    vectors, tokens = answer
    if request.dimensions:
        vectors = shorten(vectors, request.dimensions)
    if request.base64:
        vectors = np.ascontiguousarray(vectors, "<f4")  # the bytes that base64 is of
    rows = [vectors[index] for index in range(len(vectors))]  # a matrix iterates far more slowly
    values: list[Any] = list(map(pybase64.b64encode_as_string, rows)) if request.base64 else rows
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": value} for index, value in enumerate(values)],
        "model": request.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def dumps(value: object) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def _inputs(body: dict[str, Any], model: Model) -> list[Input]:
    value = body.get("input")
    if type(value) is str and 0 < 4 * len(value) <= _TEXT_BYTES:
        return [value]  # by far the most frequent, and nothing is wrong with it
    if value is None:
        raise refused("Missing required parameter: 'input'.", "input", "missing_required_parameter")
    if type(value) is str or (type(value) is list and value and type(value[0]) is int):
        value = [value]  # one text, or the token ids of one
    if type(value) is not list or not value:
        raise refused("input must be a string, a list of strings, or lists of token ids, and not empty.", "input")
    if len(value) > LOCAL.request_inputs:
        raise refused(f"input has {len(value)} items; at most {LOCAL.request_inputs} are allowed.", "input")
    if set(map(type, value)) == {str}:
        if "" in value:
            raise refused(f"input[{value.index('')}] is an empty string.", "input")
        _check_sizes(value, model)
        return value
    if type(value[0]) is str:
        index = next(index for index, item in enumerate(value) if type(item) is not str)
        raise refused(f"input[{index}] is not a text like the others.", "input")
    return [_tokens(item, index) for index, item in enumerate(value)]


def _check_sizes(texts: list[str], model: Model) -> None:
    most = max(_TEXT_BYTES, _TOKEN_BYTES * model.max_tokens)
    if 4 * max(map(len, texts)) <= most:  # 4: bytes of a character, at most
        return
    for index, text in enumerate(texts):
        if (size := len(text.encode())) > most:
            raise refused(
                f"This model's maximum context length is {model.max_tokens} tokens, and it takes no text of more than "
                f"{most} bytes, however input[{index}] has {size} bytes.",
                "input",
                "context_length_exceeded",
            )


def _tokens(item: object, index: int) -> tuple[int, ...]:
    if not isinstance(item, list) or not item or not all(type(t) is int and 0 <= t < _MAX_TOKEN for t in item):
        raise refused(f"input[{index}] is neither a text nor a list of token ids like the others, or empty.", "input")
    return tuple(item)


def _dimensions(body: dict[str, Any], model: Model) -> int | None:
    value = body.get("dimensions")
    if value is None or (value == model.dimensions and type(value) is int):
        return None
    if type(value) is not int or value not in model.shorter_dimensions:
        raise refused(f"dimensions of {model.name} must be {_allowed(model)}.", "dimensions")
    return value


def _allowed(model: Model) -> str:
    shorter = model.shorter_dimensions
    if isinstance(shorter, range):
        return f"from {shorter.start} to {model.dimensions}"
    return f"one of: {', '.join(map(str, (*shorter, model.dimensions)))}"


def unknown_token(inputs: Sequence[Input], vocabulary: int) -> RefusedError | None:
    """The answer to a request with a token id that the model does not have."""
    for index, item in enumerate(inputs):
        if not isinstance(item, str) and max(item) >= vocabulary:
            return refused(f"input[{index}] has token id {max(item)}; the model has {vocabulary} tokens.", "input")
    return None


def over_limit(lengths: Sequence[int], limit: int, in_all: int = LOCAL.request_tokens) -> RefusedError | None:
    """The API's answer to a request whose inputs have these numbers of tokens, where one or all have too many."""
    longest = max(lengths)
    if longest > limit:
        where = list(lengths).index(longest)
        return refused(
            f"This model's maximum context length is {limit} tokens, however input[{where}] has {longest} tokens.",
            "input",
            "context_length_exceeded",
        )
    if sum(lengths) > in_all:
        return refused(f"A request may have {in_all} tokens in all; this has {sum(lengths)}.", "input")
    return None
