"""What an answer says, apart from what is new in every answer: ids, times, usage. For any endpoint, by its body's shape."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import orjson
import pybase64

_NEW_EACH_TIME = {"id", "created", "created_at", "usage", "system_fingerprint", "model", "service_tier", "completed_at"}


def answer_text(body: str | None) -> str | None:
    """The content of an answer's body as text: what was said, the calls of tools, vectors as their numbers; None for no
    body. Two answers that say the same have equal texts. What is of no shape that is known is compared as it is."""
    if body is None:
        return None
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body
    if not isinstance(value, dict):
        return body
    found = [*_choices(value), *_output(value), *_vectors(value)]
    if len(found) == 1:
        return found[0]
    return orjson.dumps(found or _rest(value), option=orjson.OPT_SORT_KEYS).decode()


def _choices(body: Mapping[str, Any]) -> Iterator[str]:
    """Chat completions and completions, in the order of their index."""
    for choice in _list(body.get("choices")):
        message = choice.get("message", choice) if isinstance(choice, dict) else None
        if not isinstance(message, dict):
            yield _json(_without_ids(choice))
            continue
        said = message.get("content", message.get("text"))
        more = {key: message[key] for key in ("tool_calls", "refusal") if message.get(key)}
        yield said if isinstance(said, str) and not more else _json([said, _without_ids(more)])


def _output(body: Mapping[str, Any]) -> Iterator[str]:
    """Responses: the texts of its messages, and the calls of functions."""
    for item in _list(body.get("output")):
        kind = item.get("type") if isinstance(item, dict) else None
        if kind == "message":
            for part in _list(item.get("content")):
                text = part.get("text") if isinstance(part, dict) else part
                yield text if isinstance(text, str) else _json(part)
        elif kind != "reasoning":
            yield item if isinstance(item, str) else _json(_without_ids(item))


def _vectors(body: Mapping[str, Any]) -> Iterator[str]:
    """Embeddings in the order of their index, whatever they are encoded in."""
    items = [item for item in _list(body.get("data")) if isinstance(item, dict) and "embedding" in item]
    for item in sorted(items, key=lambda item: item["index"] if isinstance(item.get("index"), int) else 0):
        value = item["embedding"]
        try:
            numbers = np.frombuffer(pybase64.b64decode(value), "<f4") if isinstance(value, str) else value
            yield _json(np.asarray(numbers, np.float32).tolist())
        except (ValueError, TypeError):  # neither numbers nor base64 of numbers
            yield value if isinstance(value, str) else _json(value)


def _list(value: object) -> list[Any]:
    """A list as it is, a text or an object as a list of one, else none."""
    if isinstance(value, list):
        return value
    return [value] if isinstance(value, str | dict) else []


def _rest(body: Mapping[str, Any]) -> Mapping[str, Any]:
    return {key: value for key, value in body.items() if key not in _NEW_EACH_TIME}


def _without_ids(value: Any) -> Any:  # noqa: ANN401 - JSON
    if isinstance(value, dict):
        return {key: _without_ids(item) for key, item in value.items() if key not in ("id", "call_id", "status")}
    return [_without_ids(item) for item in value] if isinstance(value, list) else value


def _json(value: object) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
