"""autobatcher: single calls that it gathers into batches. Its default for text, background responses that it polls, is a
service of its maker's own; with `completion_window="24h"` it speaks the Batch API."""

import asyncio

import openai
from autobatcher import BatchOpenAI

from checks import NotServedError, check, equal, holds, main, texts, world

WORLD = world()


def client(**options: object) -> BatchOpenAI:
    waits = {"batch_window_seconds": 0.3, "poll_interval_seconds": 0.2}
    return BatchOpenAI(api_key=WORLD.key, base_url=WORLD.url, **waits, **options)


@check("embeddings: 60 calls as batches")
async def embeddings() -> str:
    events: list[dict[str, object]] = []
    async with client(batch_size=25, batch_event_handler=events.append) as one:
        rows = texts(60)
        answers = await asyncio.gather(*(one.embeddings.create(model=WORLD.local, input=row) for row in rows))
    async with openai.AsyncOpenAI() as plain:
        direct = await plain.embeddings.create(model=WORLD.local, input=rows)
    for answer, expected in zip(answers, direct.data, strict=True):
        pairs = zip(answer.data[0].embedding, expected.embedding, strict=True)
        holds(max(abs(one - other) for one, other in pairs) < 1e-6)
    made = [event for event in events if event["event"] == "batch_completed"]
    equal(sum(int(str(event["request_count"])) for event in made), 60)
    return f"{len(made)} batches"


@check("chat completions: 20 calls as a batch")
async def chat() -> None:
    async with client(completion_window="24h", batch_metadata={"run": "a"}) as one:
        asked = [[{"role": "user", "content": text}] for text in texts(20)]
        answers = await asyncio.gather(
            *(one.chat.completions.create(model=WORLD.chat, messages=each, max_tokens=4) for each in asked)
        )
    used = [answer.usage.completion_tokens for answer in answers if answer.usage]
    holds(len(used) == 20 and all(1 <= tokens <= 4 for tokens in used))  # a model of chance ends where it likes


@check("responses: 5 calls as a batch")
async def responses() -> None:
    events: list[dict[str, object]] = []
    async with client(completion_window="24h", batch_event_handler=events.append) as one:
        calls = [one.responses.create(model=WORLD.chat, input=text, max_output_tokens=4) for text in texts(5)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
    (done,) = [event for event in events if event["event"] == "batch_completed"]
    equal(done["counts"], {"completed": 5, "failed": 0, "total": 5})
    if any(isinstance(answer, Exception) for answer in answers):
        raise NotServedError("the batch ran; autobatcher's types want fields that llama.cpp's answers lack")


@check("files and models, as of the official client")
async def others() -> None:
    async with client() as one:
        holds(WORLD.local in [model.id async for model in one.models.list()])
        holds([file.id async for file in one.files.list(purpose="batch", limit=2)])


if __name__ == "__main__":
    main("autobatcher", "openai")
