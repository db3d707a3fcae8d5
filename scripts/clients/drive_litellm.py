"""LiteLLM's own functions for files, batches, embeddings and chat, against an OpenAI-compatible address."""

from typing import Any

import litellm

from checks import PATIENCE_S, check, equal, holds, jsonl, main, parsed, request, texts, until, world

WORLD = world()
WHERE: dict[str, Any] = {"api_base": WORLD.url, "api_key": WORLD.key}
STORE: dict[str, Any] = {"custom_llm_provider": "openai", **WHERE}
litellm.num_retries = 0
litellm.request_timeout = PATIENCE_S


@check("embedding, aembedding")
async def embeddings() -> None:
    asked = {"model": f"openai/{WORLD.local}", "input": texts(3), "encoding_format": "float", **WHERE}
    found = litellm.embedding(**asked)
    equal([len(item["embedding"]) for item in found.data], [WORLD.dimensions] * 3)
    again = await litellm.aembedding(**asked)
    equal([item["embedding"] for item in again.data], [item["embedding"] for item in found.data])


@check("completion: plain and streamed")
async def completion() -> None:
    asked = {
        "model": f"openai/{WORLD.chat}",
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 4,
        **WHERE,
    }
    equal(litellm.completion(**asked).usage.completion_tokens, 4)
    holds([chunk async for chunk in await litellm.acompletion(**asked, stream=True)])


@check("files: create, retrieve, list, content, delete")
async def files() -> None:
    data = jsonl(request("a", "/v1/embeddings", model=WORLD.local, input="a"))
    file = litellm.create_file(file=("in.jsonl", data), purpose="batch", **STORE)
    equal((await litellm.afile_retrieve(file_id=file.id, **STORE)).id, file.id)
    holds(file.id in [one.id for one in litellm.file_list(**STORE).data])
    equal((await litellm.afile_content(file_id=file.id, **STORE)).content, data)
    equal(litellm.file_delete(file_id=file.id, **STORE).deleted, True)


@check("batches: create, retrieve, list, cancel, output")
async def batches() -> None:
    rows = texts(20)
    lines = [request(f"r{n}", "/v1/embeddings", model=WORLD.local, input=rows[n]) for n in range(20)]
    file = await litellm.acreate_file(file=("in.jsonl", jsonl(*lines)), purpose="batch", **STORE)
    options = {"endpoint": "/v1/embeddings", "completion_window": "24h", "input_file_id": file.id}
    batch = litellm.create_batch(**options, metadata={"a": "b"}, **STORE)
    done = await until(
        lambda: litellm.aretrieve_batch(batch_id=batch.id, **STORE), lambda one: one.status in ("completed", "failed")
    )
    equal((done.status, done.request_counts.completed, done.metadata), ("completed", 20, {"a": "b"}))
    content = await litellm.afile_content(file_id=done.output_file_id, **STORE)
    equal(len(parsed(content.content)), 20)
    holds(batch.id in [one.id for one in litellm.list_batches(limit=5, **STORE).data])
    long = jsonl(*(request(f"r{n}", "/v1/embeddings", model=WORLD.local, input=texts(40)) for n in range(2000)))
    file = await litellm.acreate_file(file=("long.jsonl", long), purpose="batch", **STORE)
    other = await litellm.acreate_batch(**{**options, "input_file_id": file.id}, **STORE)
    holds(
        litellm.cancel_batch(batch_id=other.id, **STORE).status
        in ("cancelling", "cancelled", "completed", "finalizing")
    )


if __name__ == "__main__":
    main("litellm", "openai")
