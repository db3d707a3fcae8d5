"""The official client drives the engine unchanged: every call of the Files, Batches, Embeddings and Models API."""

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from openai.types import Batch, FileObject

from embedfill.models.load import load
from embedfill.models.tokenizers import load_file
from tests.engine_fixtures import STATIC, EngineProcess, jsonl, request_line, texts, until


@pytest.fixture
def own(new_engine: Callable[..., EngineProcess]) -> Iterator[openai.OpenAI]:
    """A client of an engine that holds nothing yet."""
    client = openai.OpenAI(base_url=new_engine().start().url, api_key="any", max_retries=0)
    yield client
    client.close()


def _upload(client: openai.OpenAI, data: bytes, name: str = "in.jsonl") -> FileObject:
    return client.files.create(file=(name, data), purpose="batch")


def _create(client: openai.OpenAI, file_id: str, **options: object) -> Batch:
    return client.batches.create(input_file_id=file_id, endpoint="/v1/embeddings", completion_window="24h", **options)


def _ended(client: openai.OpenAI, batch_id: str) -> Batch:
    return until(lambda: client.batches.retrieve(batch_id), lambda b: b.status in ("completed", "failed", "cancelled"))


def _valid(value: openai.BaseModel) -> None:
    """The client builds objects without checking them: check against its own types."""
    type(value).model_validate(value.to_dict(mode="json"), strict=True)


def test_upload_to_delete(sdk: openai.OpenAI) -> None:
    rows = texts(30)
    data = jsonl(request_line(f"r{n}", [rows[n], rows[n]], encoding_format="base64") for n in range(30))
    file = sdk.files.create(
        file=("in.jsonl", data), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    _valid(file)
    assert (file.bytes, file.filename, file.purpose) == (len(data), "in.jsonl", "batch")
    assert file.expires_at == file.created_at + 3600
    batch = _create(sdk, file.id, metadata={"shard": "a", "try": "1"})
    _valid(batch)
    assert (batch.status, batch.metadata) == ("validating", {"shard": "a", "try": "1"})
    assert batch.expires_at == batch.created_at + 86_400
    batch = _ended(sdk, batch.id)
    _valid(batch)
    assert (batch.status, batch.model, batch.error_file_id) == ("completed", STATIC, None)
    assert batch.request_counts is not None and batch.usage is not None
    assert batch.request_counts.to_dict() == {"total": 30, "completed": 30, "failed": 0}
    stamps = [batch.created_at, batch.in_progress_at, batch.finalizing_at, batch.completed_at]
    assert None not in stamps and stamps == sorted(stamps)
    assert batch.output_file_id is not None
    output = sdk.files.retrieve(batch.output_file_id)
    _valid(output)
    content = sdk.files.content(output.id).read()
    assert (output.purpose, output.bytes) == ("batch_output", len(content))
    assert content.count(b"\n") == 30
    assert sdk.files.content(file.id).read() == data
    for gone in (file.id, output.id):
        assert sdk.files.delete(gone).deleted is True
        with pytest.raises(openai.NotFoundError):
            sdk.files.retrieve(gone)


def test_batches_are_listed_page_by_page(own: openai.OpenAI) -> None:
    file = _upload(own, jsonl([request_line("a", "text")]))
    made = [_create(own, file.id).id for _ in range(5)]
    assert [batch.id for batch in own.batches.list(limit=2)] == made[::-1]
    first = own.batches.list(limit=2)
    assert ([b.id for b in first.data], first.has_more) == (made[:2:-1], True)
    last = own.batches.list(limit=2, after=made[2])
    assert ([b.id for b in last.data], last.has_more) == (made[1::-1], False)  # full, and yet the last
    assert own.batches.list(after="batch_unknown").data == []
    assert own.batches.list(after=made[0]).has_more is False


def test_files_are_listed_page_by_page(own: openai.OpenAI) -> None:
    made = [_upload(own, jsonl([request_line("a", "text")]), f"{n}.jsonl").id for n in range(3)]
    made.append(own.files.create(file=("notes.txt", b"notes"), purpose="user_data").id)
    assert [file.id for file in own.files.list()] == made[::-1]
    assert [file.id for file in own.files.list(order="asc", limit=3)] == made
    assert [file.id for file in own.files.list(purpose="batch", limit=1)] == made[2::-1]
    assert own.files.list(limit=4).has_more is False
    assert own.files.list(limit=3).has_more is True
    assert own.files.list(after="file-unknown").data == []


def test_an_upload_in_parts(sdk: openai.OpenAI) -> None:
    data = jsonl(request_line(f"r{n}", text) for n, text in enumerate(texts(200)))
    asked: Any = {"bytes": len(data), "filename": "in.jsonl", "mime_type": "application/jsonl", "purpose": "batch"}
    made = sdk.uploads.create(**asked, expires_after={"anchor": "created_at", "seconds": 3600})
    _valid(made)
    parts = [sdk.uploads.parts.create(made.id, data=piece) for piece in (data[5000:], data[:5000])]
    for part in parts:
        _valid(part)
    done = sdk.uploads.complete(made.id, part_ids=[parts[1].id, parts[0].id], md5=hashlib.md5(data).hexdigest())
    _valid(done)
    assert (made.status, done.status, made.expires_at) == ("pending", "completed", made.created_at + 3600)
    assert done.file is not None and done.file.expires_at == done.file.created_at + 3600
    assert sdk.files.content(done.file.id).content == data
    assert _ended(sdk, _create(sdk, done.file.id).id).status == "completed"
    other = sdk.uploads.create(**asked)
    assert sdk.uploads.cancel(other.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError):
        sdk.uploads.parts.create(other.id, data=b"late")
    options: Any = {"mime_type": "text/plain", "purpose": "user_data", "part_size": 5000}
    chunked = sdk.uploads.upload_file_chunked(file=data, filename="in.txt", bytes=len(data), **options)
    assert chunked.file is not None and chunked.file.bytes == len(data)


def test_responses_as_they_came(sdk: openai.OpenAI, tmp_path: Path) -> None:
    data = jsonl(request_line(f"r{n}", text) for n, text in enumerate(texts(300)))
    raw = sdk.files.with_raw_response.create(file=("in.jsonl", data), purpose="batch")
    file = raw.parse()
    assert raw.status_code == 200 and raw.headers["content-type"] == "application/json" and raw.request_id
    with sdk.files.with_streaming_response.content(file.id) as response:
        assert response.headers["content-length"] == str(len(data))
        response.stream_to_file(tmp_path / "whole")
    assert (tmp_path / "whole").read_bytes() == data
    part = sdk.files.with_raw_response.content(file.id, extra_headers={"Range": "bytes=-10"})
    assert (part.status_code, part.content) == (206, data[-10:])
    assert sdk.files.wait_for_processing(file.id).status == "processed"


def test_the_asynchronous_client_does_all_of_it(engine: EngineProcess) -> None:
    async def run() -> None:
        async with openai.AsyncOpenAI(base_url=engine.url, api_key="any", max_retries=0) as client:
            await asyncio.wait_for(_asynchronously(client), 60)

    asyncio.run(run())


async def _asynchronously(client: openai.AsyncOpenAI) -> None:
    data = jsonl(request_line(f"r{n}", text) for n, text in enumerate(texts(20)))
    upload = await client.uploads.create(bytes=len(data), filename="a.jsonl", mime_type="a/b", purpose="batch")
    part = await client.uploads.parts.create(upload.id, data=data)
    file = (await client.uploads.complete(upload.id, part_ids=[part.id])).file
    assert file is not None
    _valid(await client.files.retrieve(file.id))
    options: Any = {"input_file_id": file.id, "endpoint": "/v1/embeddings", "completion_window": "24h"}
    made = [await client.batches.create(**options) for _ in range(3)]
    found = [batch.id async for batch in client.batches.list(limit=2)]
    assert found[:3] == [batch.id for batch in reversed(made)] and len(set(found)) == len(found)
    assert file.id in [one.id async for one in client.files.list(limit=2, purpose="batch")]
    for batch in made:
        while (batch := await client.batches.retrieve(batch.id)).status != "completed":
            await asyncio.sleep(0.01)
        _valid(batch)
    assert batch.output_file_id is not None
    lines = (await client.files.content(batch.output_file_id)).content.splitlines()
    assert len(lines) == 20
    with pytest.raises(openai.ConflictError):
        await client.batches.cancel(batch.id)
    answers = await asyncio.gather(*(client.embeddings.create(model=STATIC, input=text) for text in texts(20)))
    assert {len(answer.data[0].embedding) for answer in answers} == {256}
    assert STATIC in [model.id async for model in client.models.list()]
    assert (await client.files.delete(file.id)).deleted


def test_cancel(sdk: openai.OpenAI) -> None:
    file = _upload(sdk, jsonl(request_line(f"r{n}", list(texts(40, n * 40))) for n in range(3000)))
    batch = sdk.batches.cancel(_create(sdk, file.id).id)
    _valid(batch)
    assert batch.status == "cancelling" and batch.cancelling_at is not None
    batch = _ended(sdk, batch.id)
    assert batch.status == "cancelled" and batch.request_counts is not None
    assert batch.request_counts.completed + batch.request_counts.failed == batch.request_counts.total == 3000
    assert sdk.batches.cancel(batch.id).status == "cancelled"
    done = _ended(sdk, _create(sdk, _upload(sdk, jsonl([request_line("a", "text")])).id).id)
    with pytest.raises(openai.ConflictError):
        sdk.batches.cancel(done.id)


def test_embeddings(sdk: openai.OpenAI) -> None:
    rows = list(texts(20))
    expected = load(STATIC).embed(rows)
    plain = sdk.embeddings.create(model=STATIC, input=rows)  # the client asks for base64 by itself
    assert plain.model == STATIC and plain.usage.prompt_tokens == plain.usage.total_tokens > 20
    np.testing.assert_allclose([item.embedding for item in plain.data], expected, atol=1e-6)
    floats = sdk.embeddings.create(model=STATIC, input=rows, encoding_format="float")
    _valid(floats)
    assert [item.index for item in floats.data] == list(range(20))
    np.testing.assert_allclose([item.embedding for item in floats.data], expected, atol=1e-6)
    short = sdk.embeddings.create(model=STATIC, input=rows[0], dimensions=64)
    cut = expected[0, :64] / np.linalg.norm(expected[0, :64])
    np.testing.assert_allclose(short.data[0].embedding, cut, atol=1e-6)


def test_token_arrays_are_embedded_as_such(sdk: openai.OpenAI) -> None:
    ids = load_file(STATIC).ids(["a few words", "others"])
    expected = load(STATIC).embed(["a few words", "others"])
    many = sdk.embeddings.create(model=STATIC, input=ids)
    np.testing.assert_allclose([item.embedding for item in many.data], expected, atol=1e-6)
    one = sdk.embeddings.create(model=STATIC, input=ids[0])
    np.testing.assert_allclose(one.data[0].embedding, expected[0], atol=1e-6)
    assert one.usage.prompt_tokens == len(ids[0])


def test_models(sdk: openai.OpenAI) -> None:
    listed = {model.id for model in sdk.models.list()}
    assert {STATIC, "all-MiniLM-L6-v2"} <= listed
    _valid(sdk.models.retrieve(STATIC))
    with pytest.raises(openai.NotFoundError):
        sdk.models.retrieve("gpt-none")


def test_errors_are_what_the_client_expects(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as found:
        sdk.batches.retrieve("batch_none")
    assert found.value.code == "not_found" and "No batch found" in found.value.message
    with pytest.raises(openai.NotFoundError) as found:
        sdk.embeddings.create(model="none", input="text")
    assert (found.value.code, found.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as bad:
        sdk.batches.create(input_file_id="file-x", endpoint="/v1/images/generations", completion_window="24h")
    assert (bad.value.param, bad.value.code) == ("endpoint", "invalid_value") and "/v1/embeddings" in bad.value.message


def test_a_model_with_special_tokens(new_engine: Callable[..., EngineProcess]) -> None:
    name = "all-MiniLM-L6-v2"
    rows = ["What is a shard?", "[SEP] is ordinary text", "What is a shard?", "a longer text about batches " * 5]
    started = new_engine().start()
    batch = started.finished(started.submit(jsonl(request_line(str(n), row, name) for n, row in enumerate(rows))))
    lines = {line["custom_id"]: line["response"]["body"] for line in started.lines(batch["output_file_id"])}
    vectors = np.array([lines[str(n)]["data"][0]["embedding"] for n in range(len(rows))])
    np.testing.assert_allclose(vectors, load(name).embed(rows), atol=1e-5)
    counts = [len(ids) + 2 for ids in load_file(name).ids(rows)]
    assert [lines[str(n)]["usage"]["prompt_tokens"] for n in range(len(rows))] == counts
    assert batch["usage"]["total_tokens"] == sum(counts)
    refused = started.post("/embeddings", json={"model": name, "input": "word " * 300})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "context_length_exceeded")


def test_both_prefixes(engine: EngineProcess) -> None:
    root = engine.url.removesuffix("/v1")
    for path in ("/models", "/files", "/batches"):
        assert httpx.get(root + path).json().keys() == engine.get(path).json().keys()


def test_a_verb_that_there_is_not_is_told_those_that_there_are(engine: EngineProcess) -> None:
    for path, verbs in (
        ("/files", "GET, HEAD, POST"),
        ("/batches", "GET, HEAD, POST"),
        ("/files/x", "DELETE, GET, HEAD"),
    ):
        refused = engine.http.put(engine.url + path)
        assert refused.status_code == 405 and refused.json()["error"]["code"] == "method_not_allowed"
        assert ", ".join(sorted(refused.headers["allow"].split(", "))) == verbs
