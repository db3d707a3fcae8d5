"""Files and uploads, by the official client."""

import hashlib
from typing import Any

import openai

from checks import NotServedError, each, equal, jsonl, settle
from openai_kit import WORLD, both, embedding_lines, refused, upload, valid


@both("files: create, retrieve, content, delete")
async def files(client: Any) -> None:
    data = jsonl(*embedding_lines(3))
    file = await upload(client, data, expires_after={"anchor": "created_at", "seconds": 3600})
    equal((file.bytes, file.filename, file.purpose, file.object), (len(data), "in.jsonl", "batch", "file"))
    equal(file.expires_at, file.created_at + 3600)
    equal((await valid(client.files.retrieve(file.id))).to_dict(), file.to_dict())
    equal((await settle(client.files.content(file.id))).content, data)
    equal((await valid(client.files.delete(file.id))).deleted, True)
    await refused(lambda: client.files.retrieve(file.id), openai.NotFoundError)
    await refused(lambda: client.files.delete(file.id), openai.NotFoundError)


@both("files: list, page by page")
async def files_paged(client: Any) -> None:
    made = [(await upload(client, jsonl(*embedding_lines(1)), f"{n}.jsonl")).id for n in range(5)]
    first = await valid(client.files.list(limit=2))
    equal(([file.id for file in first.data], first.has_more), (made[:2:-1], True))
    found = [file.id for file in await each(client.files.list(limit=2, purpose="batch"))]
    equal((found[:5], len(set(found))), (made[::-1], len(found)))
    equal([file.id for file in await each(client.files.list(limit=2, order="asc", after=made[1]))], made[2:])
    equal((await settle(client.files.list(after="file-unknown"))).data, [])


@both("files: raw, streamed and partial content")
async def files_streamed(client: Any) -> None:
    data = jsonl(*embedding_lines(500))
    file = await upload(client, data)
    raw = await settle(client.files.with_raw_response.retrieve(file.id))
    equal((raw.status_code, raw.parse().id), (200, file.id))
    target = WORLD.folder / file.id
    streamed = client.files.with_streaming_response.content(file.id)
    if isinstance(client, openai.OpenAI):
        with streamed as answer:
            answer.stream_to_file(target)
    else:
        async with streamed as answer:
            await answer.stream_to_file(target)
    equal(target.read_bytes(), data)
    part = await settle(client.files.with_raw_response.content(file.id, extra_headers={"Range": "bytes=10-19"}))
    equal((part.status_code, part.content), (206, data[10:20]))


@both("uploads: create, parts, complete, cancel")
async def uploads(client: Any) -> None:
    data = jsonl(*embedding_lines(200))
    asked = {"bytes": len(data), "filename": "parts.jsonl", "mime_type": "application/jsonl", "purpose": "batch"}
    try:
        made = await valid(client.uploads.create(**asked))
    except openai.NotFoundError as error:
        raise NotServedError("the engine has no uploads") from error
    half = len(data) // 2
    parts = [await valid(client.uploads.parts.create(made.id, data=piece)) for piece in (data[half:], data[:half])]
    digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
    done = await valid(client.uploads.complete(made.id, part_ids=[parts[1].id, parts[0].id], md5=digest))
    equal(
        (made.status, done.status, done.file.bytes, done.file.filename),
        ("pending", "completed", len(data), "parts.jsonl"),
    )
    equal((await settle(client.files.content(done.file.id))).content, data)
    other = await valid(client.uploads.create(**asked))
    equal((await valid(client.uploads.cancel(other.id))).status, "cancelled")
    await refused(lambda: client.uploads.parts.create(other.id, data=data), openai.APIStatusError)
    whole = await valid(
        client.uploads.upload_file_chunked(
            file=data, filename="c.jsonl", bytes=len(data), mime_type="text/plain", purpose="batch", part_size=5000
        )
    )
    equal((whole.status, whole.file.bytes), ("completed", len(data)))
