"""What is known of each endpoint's bodies: what is counted of a request, what it may generate, what its answer is.

Everything is read from the JSON body; nothing is changed in it.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from embedfill.batchapi.models import EMBEDDINGS
from embedfill.models.known import KNOWN

Body = Mapping[str, Any]
UNKNOWN = -1  # tokens that a request may generate, where it does not say
_SAID = ("content", "text", "arguments", "output", "name")  # where the texts of a message or an item stand
_MEDIA = (
    "image_url", "image", "input_audio", "audio", "video_url", "video", "file", "file_id", "file_url", "file_data",
)  # fmt: skip
_STORED = ("previous_response_id", "conversation", "prompt")
_MESSAGE_TOKENS = 4  # around each message, by the providers' own cookbooks
_REPLY_TOKENS = 3
_COMPLETION_TOKENS = 16  # what /v1/completions generates unless asked for another number
_DIMENSIONS = 4096  # of a model that is not known, for the size of its answers
_NUMBER_BYTES = {"base64": 5.4, "float": 22.0}
_ANSWER_BYTES = 400  # of a result line around what was asked for


@dataclass(frozen=True, slots=True)
class Measured:
    """A request's texts that a tokenizer counts, the tokens that are known without one, its inputs, the most tokens
    that it may generate (UNKNOWN where it does not say) and the bytes of its answer, where they are known. `media` are
    its images, recordings and files, whose tokens nobody can count here."""

    texts: list[str]
    tokens: int = 0
    inputs: int = 1
    output_tokens: int = 0
    answer_bytes: int = 0
    media: int = 0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`asks` is the body's key that must be there, `exact` whether its tokens are just those of its texts, `metered`
    whether its answers say what they cost."""

    path: str
    asks: str
    measure: Callable[[Body], Measured]
    exact: bool = False
    generates: bool = True
    metered: bool = True


def _media(value: object) -> int:
    """Images, recordings and files in messages, items and their parts, however deep."""
    count, held = 0, [value]
    while held:
        one = held.pop()
        if isinstance(one, list):
            held += one
        elif isinstance(one, dict):
            here = any(one.get(name) is not None for name in _MEDIA)
            count += here
            held += () if here else one.values()
    return count


def _inputs(value: object) -> Measured:
    """A string, a list of strings, a list of tokens, or a list of such lists."""
    if isinstance(value, str):
        return Measured([value])
    items = value if isinstance(value, list) else []
    if items and all(isinstance(item, int) for item in items):
        return Measured([], len(items))
    texts = [item for item in items if isinstance(item, str)]
    tokens = sum(len(item) for item in items if isinstance(item, list))
    texts += [text for item in items if isinstance(item, dict) for text in _strings(item)]
    return Measured(texts, tokens, max(1, len(items)), media=_media(items))


def _strings(value: object) -> Iterator[str]:
    """The texts of a message, an item or a part of one, also of nested ones; of images and files see `_media`."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, dict):
        for key in _SAID:
            if (said := value.get(key)) is not None:
                yield from (said,) if isinstance(said, str) else _strings(said)
        if calls := value.get("tool_calls"):
            yield orjson.dumps(calls).decode()


def _settings(body: Body, *names: str) -> Iterator[str]:
    """What else of a body goes into the prompt: tools, and the schema of the answer."""
    for name in names:
        if (value := body.get(name)) is not None:
            yield value if isinstance(value, str) else orjson.dumps(value).decode()


def _number(body: Body, *names: str) -> int:
    for name in names:
        value = body.get(name)
        if isinstance(value, int) and value >= 0:
            return value
    return UNKNOWN


def _times(tokens: int, count: int) -> int:
    return tokens if tokens == UNKNOWN else tokens * max(1, count)


def _chat(body: Body) -> Measured:
    messages = body.get("messages")
    messages = messages if isinstance(messages, list) else []
    texts = [*_strings(messages), *_settings(body, "tools", "functions", "response_format")]
    output = _times(_number(body, "max_completion_tokens", "max_tokens"), _number(body, "n"))
    tokens = _MESSAGE_TOKENS * len(messages) + _REPLY_TOKENS
    return Measured(texts, tokens, output_tokens=output, media=_media(messages))


def _responses(body: Body) -> Measured:
    given = body.get("input")
    texts = [*_strings(given), *_settings(body, "instructions", "tools", "text", "prompt")]
    items = len(given) if isinstance(given, list) else 1
    tokens = _MESSAGE_TOKENS * (items + 1) + _REPLY_TOKENS
    # What a stored prompt or an earlier answer brings along is as little known as an image.
    media = _media(given) + sum(body.get(name) is not None for name in _STORED)
    return Measured(texts, tokens, output_tokens=_number(body, "max_output_tokens"), media=media)


def _completions(body: Body) -> Measured:
    found = _inputs(body.get("prompt"))
    output = _number(body, "max_tokens")
    answers = max(_number(body, "n"), _number(body, "best_of"), 1) * found.inputs
    return Measured(
        found.texts, found.tokens, found.inputs, (_COMPLETION_TOKENS if output == UNKNOWN else output) * answers
    )


def _embeddings(body: Body) -> Measured:
    found = _inputs(body.get("input"))
    known = KNOWN.get(str(body.get("model")))
    dimensions = _number(body, "dimensions")
    if dimensions == UNKNOWN:
        dimensions = known.dimensions if known else _DIMENSIONS
    encoding = "base64" if body.get("encoding_format") == "base64" else "float"
    size = int(found.inputs * (dimensions * _NUMBER_BYTES[encoding] + _ANSWER_BYTES))
    return Measured(found.texts, found.tokens, found.inputs, 0, size, found.media)


def _moderations(body: Body) -> Measured:
    return _inputs(body.get("input"))


ENDPOINTS = {
    endpoint.path: endpoint
    for endpoint in (
        Endpoint("/v1/chat/completions", "messages", _chat),
        Endpoint("/v1/responses", "input", _responses),
        Endpoint("/v1/completions", "prompt", _completions),
        Endpoint(EMBEDDINGS, "input", _embeddings, exact=True, generates=False),
        Endpoint("/v1/moderations", "input", _moderations, generates=False, metered=False),
    )
}


def usage_of(body: object) -> tuple[int, int]:
    """Prompt and generated tokens that an answer reports, by any endpoint's names for them."""
    usage = body.get("usage") if isinstance(body, dict) else None
    if not isinstance(usage, dict):
        return 0, 0
    prompt = max(_number(usage, "prompt_tokens", "input_tokens"), 0)
    return prompt, max(_number(usage, "completion_tokens", "output_tokens"), 0)
