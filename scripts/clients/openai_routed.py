"""What the engine has from a server behind it, by the official client: one by one, streamed, and as a batch."""

from typing import Any

from checks import each, equal, holds, request, settle, texts
from openai_kit import WORLD, both, ended, lines_of, submit, valid

TOKENS = 8


def messages(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@both("chat completions: one by one")
async def chat(client: Any) -> str:
    asked = {"model": WORLD.chat, "messages": messages("Hello"), "max_tokens": TOKENS, "seed": 1, "temperature": 0}
    answer = await valid(client.chat.completions.create(**asked))
    usage = answer.usage
    equal((answer.object, len(answer.choices), usage.completion_tokens), ("chat.completion", 1, TOKENS))
    equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens)
    raw = await settle(client.chat.completions.with_raw_response.create(**asked))
    equal(raw.parse().choices[0].message.content, answer.choices[0].message.content)
    return repr(answer.choices[0].message.content)


@both("chat completions: streamed")
async def chat_streamed(client: Any) -> str:
    asked = {"model": WORLD.chat, "messages": messages("Hello"), "max_tokens": TOKENS, "seed": 1, "temperature": 0}
    stream = await settle(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    chunks = await each(stream)
    whole = await settle(client.chat.completions.create(**asked))
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    equal(said, whole.choices[0].message.content)
    equal([chunk.usage.completion_tokens for chunk in chunks if chunk.usage], [TOKENS])
    return f"{len(chunks)} chunks"


@both("chat completions: a batch of 50")
async def chat_batch(client: Any) -> str:
    lines: list[object] = [
        request(f"c{n}", "/v1/chat/completions", model=WORLD.chat, messages=messages(text), max_tokens=TOKENS)
        for n, text in enumerate(texts(50))
    ]
    batch = await ended(client, await submit(client, "/v1/chat/completions", lines))
    equal(batch.request_counts.to_dict(), {"total": 50, "completed": 50, "failed": 0})
    equal((batch.status, batch.error_file_id), ("completed", None))
    output = await lines_of(client, batch.output_file_id)
    equal(set(output), {f"c{n}" for n in range(50)})
    usages = [line["response"]["body"]["usage"] for line in output.values()]
    usage = batch.to_dict()["usage"]
    equal(usage["input_tokens"], sum(one["prompt_tokens"] for one in usages))
    equal(usage["output_tokens"], sum(one["completion_tokens"] for one in usages))
    equal(usage["total_tokens"], sum(one["total_tokens"] for one in usages))
    return f"{usage['total_tokens']} tokens"


@both("chat completions: streaming is refused in a batch")
async def chat_batch_streaming(client: Any) -> None:
    body = {"model": WORLD.chat, "messages": messages("Hello"), "stream": True}
    batch = await ended(
        client, await submit(client, "/v1/chat/completions", [request("a", "/v1/chat/completions", **body)])
    )
    equal((batch.status, [error.code for error in batch.errors.data]), ("failed", ["streaming_unsupported"]))


@both("responses: one by one, and as a batch")
async def responses(client: Any) -> None:
    body = {"model": WORLD.chat, "input": "Hello there", "max_output_tokens": TOKENS, "temperature": 0}
    answer = await settle(client.responses.create(**body))
    equal((answer.object, answer.status, answer.usage.output_tokens), ("response", "completed", TOKENS))
    lines: list[object] = [request(f"s{n}", "/v1/responses", **body) for n in range(5)]
    batch = await ended(client, await submit(client, "/v1/responses", lines))
    equal(batch.request_counts.to_dict(), {"total": 5, "completed": 5, "failed": 0})
    usages = [line["response"]["body"]["usage"] for line in (await lines_of(client, batch.output_file_id)).values()]
    equal(batch.to_dict()["usage"]["input_tokens"], sum(one["input_tokens"] for one in usages))
    equal(batch.to_dict()["usage"]["output_tokens"], 5 * TOKENS)


@both("completions: one by one, and as a batch")
async def completions(client: Any) -> None:
    body = {"model": WORLD.chat, "prompt": "Once upon", "max_tokens": TOKENS, "temperature": 0}
    answer = await valid(client.completions.create(**body))
    equal((answer.object, answer.usage.completion_tokens), ("text_completion", TOKENS))
    lines: list[object] = [request(f"p{n}", "/v1/completions", **body) for n in range(5)]
    batch = await ended(client, await submit(client, "/v1/completions", lines))
    equal(batch.request_counts.to_dict(), {"total": 5, "completed": 5, "failed": 0})


@both("embeddings: of a server behind it, and as a batch")
async def embeddings(client: Any) -> None:
    answer = await valid(
        client.embeddings.create(model=WORLD.chat, input=["a text", "another"], encoding_format="float")
    )
    equal([item.index for item in answer.data], [0, 1])
    lines: list[object] = [
        request(f"e{n}", "/v1/embeddings", model=WORLD.chat, input=text) for n, text in enumerate(texts(10))
    ]
    batch = await ended(client, await submit(client, "/v1/embeddings", lines))
    equal(batch.request_counts.to_dict(), {"total": 10, "completed": 10, "failed": 0})
    output = await lines_of(client, batch.output_file_id)
    sizes = {len(line["response"]["body"]["data"][0]["embedding"]) for line in output.values()}
    equal(sizes, {len(answer.data[0].embedding)})


async def second(client: Any) -> str:
    answer = await valid(client.chat.completions.create(model=WORLD.mock, messages=messages("Hello")))
    holds(answer.choices[0].message.content, answer)
    lines: list[object] = [
        request(f"m{n}", "/v1/chat/completions", model=WORLD.mock, messages=messages(text))
        for n, text in enumerate(texts(50))
    ]
    batch = await ended(client, await submit(client, "/v1/chat/completions", lines))
    equal(batch.request_counts.to_dict(), {"total": 50, "completed": 50, "failed": 0})
    return str(answer.choices[0].message.content)


if WORLD.mock is not None:
    both("a model of a second server behind it")(second)


@both("a stand-in for a paid model")
async def rehearsed(client: Any) -> None:
    answer = await valid(client.embeddings.create(model=WORLD.rehearsed, input="a text"))
    equal(len(answer.data[0].embedding), 1536)
