"""JSON that a client wrote: parsed, with the depth of its nesting bounded. Says nothing about what it should hold."""

from typing import Any

import orjson

from embedfill.batchapi.limits import JSON_DEPTH

_NESTED = frozenset((list, dict))


def loads(text: bytes | str) -> Any:  # noqa: ANN401 - JSON may be anything
    """The value. Raises orjson.JSONDecodeError, also for one that is nested deeper than JSON_DEPTH: what walks through a
    value, or writes it again, must not run out of stack."""
    value = orjson.loads(text)
    if _brackets(text) > JSON_DEPTH and _deeper(value, JSON_DEPTH):
        raise orjson.JSONDecodeError(f"nested deeper than {JSON_DEPTH} levels", "", 0)
    return value


def _brackets(text: bytes | str) -> int:
    """At least as many as there are levels; counting them costs nothing beside parsing."""
    if isinstance(text, str):
        return text.count("[") + text.count("{")
    return text.count(b"[") + text.count(b"{")


def _deeper(value: object, most: int) -> bool:
    """Whether there are more than `most` levels, looked at one whole level after the other."""
    level = [value]
    for _ in range(most):
        inner: list[Any] = []
        for one in level:
            values = one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
            if not _NESTED.isdisjoint(map(type, values)):
                inner += [item for item in values if type(item) in _NESTED]
        if not inner:
            return False
        level = inner
    return True
