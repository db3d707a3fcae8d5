"""What the checks of the official client share. Each object that comes back is checked against the client's own types,

strictly: the client itself checks nothing.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import openai

from checks import check, holds, jsonl, parsed, request, settle, texts, until, world

WORLD = world()
CLIENTS: dict[str, Any] = {
    "sync": openai.OpenAI(max_retries=0, timeout=30.0),
    "async": openai.AsyncOpenAI(max_retries=0, timeout=30.0),
}
ENDED = ("completed", "failed", "expired", "cancelled")
beyond: set[str] = set()  # fields that this version of the client does not know


def both(name: str) -> Callable[[Callable[[Any], Awaitable[object]]], None]:
    """A check of the synchronous client, and the same of the asynchronous one."""

    def add(function: Callable[[Any], Awaitable[object]]) -> None:
        for kind, client in CLIENTS.items():
            check(f"{name} ({kind})")(lambda client=client: function(client))

    return add


async def valid(call: Any) -> Any:
    """What a call gives, checked strictly."""
    value = await settle(call)
    type(value).model_validate(value.to_dict(mode="json"), strict=True)
    _note_unknown(value, type(value).__name__)
    return value


def _note_unknown(value: Any, where: str) -> None:
    if isinstance(value, openai.BaseModel):
        beyond.update(f"{where}.{name}" for name in value.model_extra or {})
        for name in type(value).model_fields:
            _note_unknown(getattr(value, name), f"{where}.{name}")
    elif isinstance(value, list):
        for item in value[:3]:
            _note_unknown(item, where)


async def refused(call: Callable[[], Any], kind: type[openai.APIStatusError]) -> Any:
    """The exception that a call raises."""
    try:
        found = await settle(call())
    except kind as error:
        holds(error.message and error.body, error)
        return error
    raise AssertionError(f"not refused: {found!r}")


async def upload(client: Any, data: bytes, name: str = "in.jsonl", **options: Any) -> Any:
    return await valid(client.files.create(file=(name, data), purpose="batch", **options))


async def submit(client: Any, endpoint: str, lines: list[object], **options: Any) -> Any:
    file = await upload(client, jsonl(*lines))
    return await valid(
        client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h", **options)
    )


async def ended(client: Any, batch: Any) -> Any:
    found = await until(lambda: client.batches.retrieve(batch.id), lambda found: found.status in ENDED)
    return await valid(found)


async def lines_of(client: Any, file_id: str) -> dict[str, dict[str, Any]]:
    content = await settle(client.files.content(file_id))
    return parsed(content.content)


def embedding_lines(count: int, **body: Any) -> list[object]:
    rows = texts(count)
    return [request(f"r{n}", "/v1/embeddings", model=WORLD.local, input=rows[n], **body) for n in range(count)]
