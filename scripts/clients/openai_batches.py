"""Batches, embeddings, models and errors, by the official client."""

import base64
import struct
from typing import Any

import openai

from checks import each, equal, holds, request, settle, texts
from openai_kit import WORLD, both, embedding_lines, ended, lines_of, refused, submit, valid


@both("batches: create, retrieve, output")
async def batches(client: Any) -> None:
    lines = embedding_lines(30, encoding_format="base64", dimensions=64)
    lines[7] = request("r7", "/v1/embeddings", model=WORLD.local, input="")
    options = {"metadata": {"shard": "a"}, "output_expires_after": {"anchor": "created_at", "seconds": 3600}}
    batch = await submit(client, "/v1/embeddings", lines, **options)
    equal((batch.status, batch.metadata, batch.expires_at - batch.created_at), ("validating", {"shard": "a"}, 86_400))
    batch = await ended(client, batch)
    equal(batch.request_counts.to_dict(), {"total": 30, "completed": 29, "failed": 1})
    stamps = [batch.created_at, batch.in_progress_at, batch.finalizing_at, batch.completed_at]
    equal((batch.status, None in stamps, stamps), ("completed", False, sorted(stamps)))
    output = await lines_of(client, batch.output_file_id)
    failed = await lines_of(client, batch.error_file_id)
    equal((len(output), list(failed), failed["r7"]["response"]["status_code"]), (29, ["r7"], 400))
    (item,) = output["r3"]["response"]["body"]["data"]
    direct = await valid(client.embeddings.create(model=WORLD.local, input=texts(4)[3], dimensions=64))
    equal(list(struct.unpack("<64f", base64.b64decode(item["embedding"]))), list(direct.data[0].embedding))
    file = await valid(client.files.retrieve(batch.output_file_id))
    equal((file.purpose, file.expires_at - file.created_at), ("batch_output", 3600))
    usage = [line["response"]["body"]["usage"]["total_tokens"] for line in output.values()]
    equal(batch.to_dict()["usage"]["total_tokens"], sum(usage))


@both("batches: list, page by page")
async def batches_paged(client: Any) -> None:
    made = [(await submit(client, "/v1/embeddings", embedding_lines(1))).id for _ in range(5)]
    first = await valid(client.batches.list(limit=2))
    equal(([batch.id for batch in first.data], first.has_more), (made[:2:-1], True))
    found = [batch.id for batch in await each(client.batches.list(limit=2))]
    equal((found[:5], len(set(found))), (made[::-1], len(found)))
    equal((await settle(client.batches.list(after="batch_unknown"))).data, [])


@both("batches: cancel")
async def batches_cancelled(client: Any) -> None:
    rows = texts(40)
    lines = [request(f"r{n}", "/v1/embeddings", model=WORLD.local, input=rows) for n in range(2000)]
    batch = await valid(client.batches.cancel((await submit(client, "/v1/embeddings", lines)).id))
    holds(batch.status == "cancelling" and batch.cancelling_at, batch)
    batch = await ended(client, batch)
    counts = batch.request_counts
    equal((batch.status, counts.completed + counts.failed, counts.total), ("cancelled", 2000, 2000))
    await refused(lambda: client.batches.cancel("batch_none"), openai.NotFoundError)
    done = await ended(client, await submit(client, "/v1/embeddings", embedding_lines(1)))
    await refused(lambda: client.batches.cancel(done.id), openai.ConflictError)


@both("batches: a file that fails validation")
async def batches_refused(client: Any) -> None:
    lines = [*embedding_lines(2), request("r0", "/v1/embeddings", model=WORLD.local, input="twice"), {"custom_id": "x"}]
    batch = await ended(client, await submit(client, "/v1/embeddings", lines))
    equal((batch.status, {error.line for error in batch.errors.data}), ("failed", {3, 4}))
    holds(all(error.code and error.message for error in batch.errors.data), batch.errors)
    options = {"endpoint": "/v1/embeddings", "completion_window": "24h"}
    missing = await ended(client, await settle(client.batches.create(input_file_id="file-none", **options)))
    equal(missing.status, "failed")


@both("embeddings: float, base64, dimensions, tokens")
async def embeddings(client: Any) -> None:
    rows = texts(20)
    plain = await valid(client.embeddings.create(model=WORLD.local, input=rows))  # the client asks for base64
    floats = await valid(client.embeddings.create(model=WORLD.local, input=rows, encoding_format="float"))
    equal([item.index for item in floats.data], list(range(20)))
    for one, other in zip(plain.data, floats.data):
        holds(max(abs(a - b) for a, b in zip(one.embedding, other.embedding, strict=True)) < 1e-6, one.index)
    equal(len(plain.data[0].embedding), WORLD.dimensions)
    equal(
        len((await settle(client.embeddings.create(model=WORLD.local, input="a", dimensions=64))).data[0].embedding), 64
    )
    equal(len((await valid(client.embeddings.create(model=WORLD.local, input=[[5, 6], [7]]))).data), 2)
    raw = await settle(client.embeddings.with_raw_response.create(model=WORLD.local, input="a"))
    equal(len(raw.parse().data[0].embedding), WORLD.dimensions)


@both("models: list, retrieve")
async def models(client: Any) -> str:
    found = [model.id for model in await each(client.models.list())]
    holds(WORLD.local in found, found)
    await valid(client.models.retrieve(WORLD.local))
    await refused(lambda: client.models.retrieve("gpt-none"), openai.NotFoundError)
    return f"{len(found)} models"


@both("errors: kind, code, param")
async def errors(client: Any) -> None:
    unknown = await refused(lambda: client.embeddings.create(model="none", input="a"), openai.NotFoundError)
    equal((unknown.code, unknown.param), ("model_not_found", "model"))
    empty = await refused(lambda: client.embeddings.create(model=WORLD.local, input=[]), openai.BadRequestError)
    equal((empty.param, empty.type), ("input", "invalid_request_error"))
    options = {"input_file_id": "file-x", "completion_window": "24h"}
    endpoint = "/v1/unknown"
    other = await refused(lambda: client.batches.create(endpoint=endpoint, **options), openai.BadRequestError)
    equal((other.param, other.code), ("endpoint", "invalid_value"))
    stranger = client.with_options(api_key="another")
    equal((await refused(lambda: stranger.models.list(), openai.AuthenticationError)).code, "invalid_api_key")
