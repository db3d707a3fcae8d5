"""What an answer says, apart from what is new in every answer: ids, times, usage. For any endpoint, by its body's shape."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import orjson
import pybase64

_NEW_EACH_TIME = {"id", "created", "created_at", "usage", "system_fingerprint", "model", "service_tier", "completed_at"}


def answer_text(body: str | None) -> str | None:
    """The content of an answer's body as text: what was said, the calls of tools, vectors as their numbers; None for no
    body. Two answers that say the same have equal texts."""
    if body is None:
        return None
    value = orjson.loads(body)
    if not isinstance(value, dict):
        return body
    found = [*_choices(value), *_output(value), *_vectors(value)]
    if len(found) == 1:
        return found[0]
    return orjson.dumps(found or _rest(value), option=orjson.OPT_SORT_KEYS).decode()


def _choices(body: Mapping[str, Any]) -> Iterator[str]:
    """Chat completions and completions, in the order of their index."""
    choices = body.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        message = choice.get("message", choice) if isinstance(choice, dict) else {}
        said = message.get("content", message.get("text"))
        more = {key: message[key] for key in ("tool_calls", "refusal") if message.get(key)}
        yield said if isinstance(said, str) and not more else _json([said, _without_ids(more)])


def _output(body: Mapping[str, Any]) -> Iterator[str]:
    """Responses: the texts of its messages, and the calls of functions."""
    for item in body["output"] if isinstance(body.get("output"), list) else ():
        if item.get("type") == "message":
            for part in item.get("content") or ():
                yield part["text"] if isinstance(part.get("text"), str) else _json(part)
        elif item.get("type") != "reasoning":
            yield _json(_without_ids(item))


def _vectors(body: Mapping[str, Any]) -> Iterator[str]:
    """Embeddings in the order of their index, whatever they are encoded in."""
    data = body.get("data")
    items = [item for item in data if isinstance(item, dict) and "embedding" in item] if isinstance(data, list) else []
    for item in sorted(items, key=lambda item: item.get("index", 0)):
        value = item["embedding"]
        numbers = np.frombuffer(pybase64.b64decode(value), "<f4") if isinstance(value, str) else value
        yield _json(np.asarray(numbers, np.float32).tolist())


def _rest(body: Mapping[str, Any]) -> Mapping[str, Any]:
    return {key: value for key, value in body.items() if key not in _NEW_EACH_TIME}


def _without_ids(value: Any) -> Any:  # noqa: ANN401 - JSON
    if isinstance(value, dict):
        return {key: _without_ids(item) for key, item in value.items() if key not in ("id", "call_id", "status")}
    return [_without_ids(item) for item in value] if isinstance(value, list) else value


def _json(value: object) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
