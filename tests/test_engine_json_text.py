"""JSON whose nesting is bounded."""

import orjson
import pytest

from embedfill.batchapi.limits import JSON_DEPTH
from embedfill.engine.json_text import loads


@pytest.mark.parametrize(("start", "stop"), [("[", "]"), ('{"a":', "}"), ('[1,{"a":"["},', "]")])
def test_deep_is_too_deep(start: str, stop: str) -> None:
    for depth in (1, JSON_DEPTH // 2, JSON_DEPTH - 1):
        text = start * depth + "[]" + stop * depth
        assert loads(text) == loads(text.encode()) == orjson.loads(text)
    for depth in (JSON_DEPTH, JSON_DEPTH * 5, JSON_DEPTH * 100):
        with pytest.raises(orjson.JSONDecodeError):
            loads(start * depth + "[]" + stop * depth)


def test_wide_is_not_deep() -> None:
    text = orjson.dumps([[[n, {"a": "{" * 50}] for n in range(300)] for _ in range(30)])
    assert loads(text) == orjson.loads(text)
    with pytest.raises(orjson.JSONDecodeError):
        loads(b"[1,")
