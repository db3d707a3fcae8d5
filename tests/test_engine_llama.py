"""A real server that we did not write answers behind the engine: llama.cpp's, one by one, streamed, and in batches."""

from typing import Any

import openai
import orjson
from openai.types import Batch

from tests.engine_fixtures import ENDED, jsonl, texts, until
from tests.llama_fixtures import CHAT

TOKENS = 8


def _messages(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def _run(client: openai.OpenAI, endpoint: str, bodies: list[dict[str, Any]]) -> tuple[Batch, list[dict[str, Any]]]:
    """A batch of these requests: how it ended, and the bodies of its answers in the order of the requests."""
    lines = [{"custom_id": str(n), "method": "POST", "url": endpoint, "body": body} for n, body in enumerate(bodies)]
    file = client.files.create(file=("in.jsonl", jsonl(lines)), purpose="batch")
    made = client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h")
    batch = until(lambda: client.batches.retrieve(made.id), lambda found: found.status in ENDED)
    assert (batch.status, batch.error_file_id) == ("completed", None)
    assert batch.request_counts.to_dict() == {"total": len(bodies), "completed": len(bodies), "failed": 0}
    content = client.files.content(batch.output_file_id).content
    found = {line["custom_id"]: line["response"]["body"] for line in map(orjson.loads, content.splitlines())}
    return batch, [found[str(n)] for n in range(len(bodies))]


def _sums(batch: Batch, answers: list[dict[str, Any]], into: str, out_of: str) -> None:
    assert batch.usage is not None
    told = (batch.usage.input_tokens, batch.usage.output_tokens, batch.usage.total_tokens)
    usages = [answer["usage"] for answer in answers]
    assert told == tuple(sum(usage[name] for usage in usages) for name in (into, out_of, "total_tokens"))
    assert batch.usage.output_tokens > len(answers)


def test_chat_completions_whole_and_streamed(fronted: openai.OpenAI) -> None:
    asked: Any = {"model": CHAT, "messages": _messages("Hello"), "max_tokens": TOKENS, "temperature": 0}
    whole = fronted.chat.completions.create(**asked)
    assert whole.usage is not None and whole.usage.completion_tokens == TOKENS
    chunks = list(fronted.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert said == whole.choices[0].message.content
    assert len(chunks) > 3 and chunks[-1].usage.completion_tokens == TOKENS


def test_chat_completions_as_a_batch(fronted: openai.OpenAI) -> None:
    bodies = [
        {"model": CHAT, "messages": _messages(text), "max_tokens": TOKENS, "temperature": 0} for text in texts(50)
    ]
    batch, answers = _run(fronted, "/v1/chat/completions", bodies)
    assert batch.model == CHAT
    _sums(batch, answers, "prompt_tokens", "completion_tokens")
    direct = fronted.chat.completions.create(**bodies[17])  # type: ignore[call-overload]
    assert answers[17]["choices"][0]["message"]["content"] == direct.choices[0].message.content


def test_responses_as_a_batch(fronted: openai.OpenAI) -> None:
    bodies = [{"model": CHAT, "input": text, "max_output_tokens": TOKENS} for text in texts(10)]
    batch, answers = _run(fronted, "/v1/responses", bodies)
    _sums(batch, answers, "input_tokens", "output_tokens")
    assert fronted.responses.create(**bodies[0]).object == "response"  # type: ignore[call-overload]


def test_completions_and_embeddings_as_batches(fronted: openai.OpenAI) -> None:
    bodies = [{"model": CHAT, "prompt": text, "max_tokens": TOKENS} for text in texts(10)]
    batch, answers = _run(fronted, "/v1/completions", bodies)
    _sums(batch, answers, "prompt_tokens", "completion_tokens")
    rows = texts(10)
    batch, answers = _run(fronted, "/v1/embeddings", [{"model": CHAT, "input": row} for row in rows])
    assert batch.usage is not None
    assert batch.usage.input_tokens == sum(answer["usage"]["prompt_tokens"] for answer in answers)
    (direct,) = fronted.embeddings.create(model=CHAT, input=rows[3], encoding_format="float").data
    assert max(abs(a - b) for a, b in zip(answers[3]["data"][0]["embedding"], direct.embedding, strict=True)) < 1e-3


def test_what_it_refuses_is_told_as_it_says_it(fronted: openai.OpenAI) -> None:
    lines = [
        {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"model": CHAT, "messages": 5}}
    ]
    file = fronted.files.create(file=("in.jsonl", jsonl(lines)), purpose="batch")
    made = fronted.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    batch = until(lambda: fronted.batches.retrieve(made.id), lambda found: found.status in ENDED)
    assert (batch.status, batch.output_file_id) == ("completed", None)
    line = orjson.loads(fronted.files.content(batch.error_file_id).content)
    assert line["error"] is None and line["response"]["status_code"] >= 400
    assert line["response"]["body"]["error"]["message"]
