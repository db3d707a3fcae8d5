"""The wire of the Files + Batches API: lines, objects, limits and prices; objects also against the official SDK's."""

import json
from pathlib import Path
from typing import Any

import openai.types
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfill.batchapi import lines, prices
from embedfill.batchapi.limits import LOCAL, OPENAI
from embedfill.batchapi.models import ENDED, Batch, File, Page

# Characters that some line splitters take for the end of a line, and some that JSON must escape.
odd_text = st.text(alphabet='a\u2028\u2029\x85\x0b\x0c\n\r\t\0"\\é中\U0001f600', max_size=20)


# Lines


@given(st.lists(odd_text, min_size=1, max_size=5), st.none() | st.integers(1, 3072))
def test_a_request_is_one_line_that_says_what_was_asked(texts: list[str], dimensions: int | None) -> None:
    line = lines.EmbeddingsRequest("m", "base64", dimensions).line("s-0", texts)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    read = json.loads(line)
    assert (read["custom_id"], read["method"], read["url"]) == ("s-0", "POST", "/v1/embeddings")
    body = {"model": "m", "input": texts, "encoding_format": "base64"}
    assert read["body"] == body | ({} if dimensions is None else {"dimensions": dimensions})


@given(st.lists(odd_text, max_size=6), st.sampled_from([b"", b"\n", b"\r\n", b"\n\n  \n"]))
def test_lines_are_split_at_newlines_only(tmp_path: Path, texts: list[str], ending: bytes) -> None:
    rows = [json.dumps({"t": text}, ensure_ascii=False).encode() for text in texts]
    path = tmp_path / "out.jsonl"
    path.write_bytes(b"\n".join(rows) + ending)
    assert [json.loads(line)["t"] for line in lines.lines_of(path)] == texts


def test_an_empty_file_has_no_lines(tmp_path: Path) -> None:
    (tmp_path / "e").write_bytes(b"")
    assert list(lines.lines_of(tmp_path / "e")) == []


@given(st.text("0123456789abcdef-", min_size=1, max_size=32), st.integers(0, 49_999))
def test_custom_ids_lead_back(shard: str, number: int) -> None:
    name = lines.custom_id(shard, number)
    assert len(lines.custom_id("f" * 32, number)) <= 64
    assert lines.request_number(shard, name) == number
    assert lines.request_number(shard + "x", name) is None


@pytest.mark.parametrize(
    "name", [None, "", "s", "s-", "s--1", "s-1x", "s-²", "s-١", "t-1", "s-1-1", "s-" + "9" * 5000, " s-1", "s- 1"]
)
def test_what_is_no_custom_id_of_ours(name: str | None) -> None:
    assert lines.request_number("s", name) is None


def result(**fields: Any) -> lines.ResultLine:
    return lines.parse_result(json.dumps({"id": "batch_req_1", "custom_id": "s-1"} | fields).encode())


BODY = {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [1.0]}], "model": "m"}


def test_a_success() -> None:
    line = result(response={"status_code": 200, "request_id": "r", "body": BODY}, error=None)
    assert (line.custom_id, line.status, line.body, line.ran, line.code) == ("s-1", 200, BODY, True, "")


@pytest.mark.parametrize(
    ("fields", "code", "message", "ran"),
    [
        (
            {
                "response": {"status_code": 400, "body": {"error": {"code": "bad", "message": "too long"}}},
                "error": None,
            },
            "bad",
            "too long",
            True,
        ),
        (
            {"response": {"status_code": 400, "body": {"error": {"code": None, "type": "t", "message": "m"}}}},
            "t",
            "m",
            True,
        ),
        ({"response": {"status_code": 500, "body": {}}}, "http_500", "{}", True),
        ({"response": {"status_code": 502, "body": "Bad gateway"}}, "http_502", "Bad gateway", True),
        ({"response": None, "error": {"code": "batch_expired", "message": "late"}}, "batch_expired", "late", False),
        ({"response": None, "error": None}, "absent", "", False),
        ({}, "absent", "", False),
        ({"response": None, "error": "words"}, "absent", "words", False),
        ({"response": {"status_code": 0, "body": None}, "error": {"code": "c", "message": "m"}}, "c", "m", False),
        ({"response": {"status_code": "200", "body": BODY}}, "http_0", str(BODY), False),
        ({"response": {"status_code": 200, "body": {}}}, "http_200", "{}", False),
    ],
)
def test_what_did_not_succeed(fields: dict[str, Any], code: str, message: str, ran: bool) -> None:
    line = result(**fields)
    assert line.body is None
    assert (line.code, line.message, line.ran) == (code, message, ran)


@pytest.mark.parametrize("name", [None, 5, ["s-1"], {"a": 1}])
@pytest.mark.parametrize("response", [None, {"status_code": 200, "body": BODY}])
def test_a_custom_id_that_is_no_string_is_none(name: object, response: object) -> None:
    assert result(custom_id=name, response=response).custom_id is None


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b"null", b'"a"', b"\xff", b'{"custom_id":"s-1"', b"NaN"])
def test_what_is_no_result_line(line: bytes) -> None:
    with pytest.raises(ValueError, match="not "):
        lines.parse_result(line)


# Objects


def test_a_batch_has_every_key_always_and_the_sdk_takes_it() -> None:
    batch = Batch(id="batch_1", input_file_id="file-1", status="validating", created_at=1, expires_at=86_401)
    dumped = batch.model_dump()
    assert set(dumped) >= set(openai.types.Batch.model_fields) - {"model"}
    theirs = openai.types.Batch.model_validate(dumped, strict=True)
    assert theirs.status == "validating"
    assert theirs.output_file_id is None


def test_a_finished_batch_of_the_api_is_read_and_written_as_it_is() -> None:
    raw = {
        "id": "batch_1",
        "object": "batch",
        "endpoint": "/v1/embeddings",
        "model": "m",
        "errors": None,
        "input_file_id": "file-1",
        "completion_window": "24h",
        "status": "completed",
        "output_file_id": "file-2",
        "error_file_id": "",
        "created_at": 1,
        "in_progress_at": 2,
        "expires_at": 86_401,
        "finalizing_at": 3,
        "completed_at": 4,
        "failed_at": None,
        "expired_at": None,
        "cancelling_at": None,
        "cancelled_at": None,
        "request_counts": {"total": 3, "completed": 2, "failed": 1},
        "usage": {
            "input_tokens": 9,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 0,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 9,
        },
        "metadata": {"shard": "s"},
    }
    batch = Batch.model_validate(raw)
    assert batch.ended
    assert batch.model_dump() == raw
    assert openai.types.Batch.model_validate(batch.model_dump(), strict=True).usage is not None


def test_a_file_of_ours_is_one_of_the_sdk() -> None:
    dumped = File(id="file-1", bytes=5, created_at=1, filename="a.jsonl").model_dump(exclude_none=True)
    assert openai.types.FileObject.model_validate(dumped, strict=True).bytes == 5


def test_what_a_server_leaves_out_nulls_or_adds_does_no_harm() -> None:
    raw = {"id": "b", "input_file_id": "f", "status": "failed", "created_at": 1.0, "output_expires_at": 5}
    raw |= {"request_counts": {"total": None}, "usage": {"input_tokens": 7, "input_tokens_details": None}}
    batch = Batch.model_validate(raw | {"errors": {"data": None}, "metadata": None})
    assert batch.request_counts is not None
    assert batch.request_counts.total == 0
    assert batch.usage is not None
    assert (batch.usage.input_tokens, batch.usage.input_tokens_details.cached_tokens) == (7, 0)
    assert batch.errors is not None
    assert batch.errors.data == []


@pytest.mark.parametrize("key", ["id", "input_file_id", "status", "created_at"])
def test_a_batch_without_its_essentials_is_refused(key: str) -> None:
    raw: dict[str, Any] = {"id": "b", "input_file_id": "f", "status": "failed", "created_at": 1}
    with pytest.raises(ValueError, match=key):
        Batch.model_validate(raw | {key: None})


RAW = {"id": "b", "input_file_id": "f", "status": "in_progress", "created_at": 1}


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (1_763_520_462, 1_763_520_462),
        (1_763_520_462.9, 1_763_520_462),
        ("1763520462", 1_763_520_462),
        ("2025-11-19T02:47:42.031781+00:00", 1_763_520_462),
        ("2025-11-19T02:47:42.031781234Z", 1_763_520_462),
        ("2025-11-19T03:47:42+01:00", 1_763_520_462),
        ("2025-11-19T02:47:42", 1_763_520_462),
        ("2025-11-19 02:47:42", 1_763_520_462),
    ],
)
def test_a_time_may_be_written_in_any_usual_way(written: object, seconds: int) -> None:
    batch = Batch.model_validate({**RAW, "created_at": written, "completed_at": written})
    assert (batch.created_at, batch.completed_at) == (seconds, seconds)
    assert File.model_validate({"id": "f", "created_at": written}).created_at == seconds


@pytest.mark.parametrize("words", ["", "soon", "24h", "2025-13-40T00:00:00Z"])
def test_words_that_are_no_time_hide_no_batch(words: str) -> None:
    batch = Batch.model_validate({**RAW, "expires_at": words, "completed_at": words})
    assert (batch.expires_at, batch.completed_at) == (None, None)
    with pytest.raises(ValueError, match="created_at"):
        Batch.model_validate({**RAW, "created_at": words})


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "[1]", "{}"])
def test_a_time_that_is_no_number_of_seconds_is_refused_as_malformed(number: str) -> None:
    data = json.dumps(RAW).replace('"created_at": 1', f'"created_at": {number}')
    with pytest.raises(ValueError, match="created_at"):
        Batch.model_validate_json(data)


@pytest.mark.parametrize(
    ("told", "status", "ended"),
    [
        ("COMPLETED", "completed", True),
        ("Canceled", "cancelled", True),
        ("canceling", "cancelling", False),
        ("in_queue", "in_queue", False),
        ("Expired", "expired", True),
    ],
)
def test_a_status_in_another_spelling(told: str, status: str, ended: bool) -> None:
    batch = Batch.model_validate({**RAW, "status": told})
    assert (batch.status, batch.ended) == (status, ended)


@pytest.mark.parametrize(
    ("errors", "words"),
    [
        ({"data": [{"message": "bad"}]}, ["bad"]),
        ([{"message": "bad", "line": 3}], ["bad"]),
        ("bad", ["bad"]),
        ("", []),
        ([], []),
        ({}, []),
    ],
)
def test_errors_in_another_shape(errors: object, words: list[str]) -> None:
    batch = Batch.model_validate({**RAW, "errors": errors})
    assert [error.message for error in (batch.errors.data if batch.errors else [])] == words


def test_metadata_that_are_no_pairs_are_none() -> None:
    assert Batch.model_validate({**RAW, "metadata": ""}).metadata is None
    assert Batch.model_validate({**RAW, "metadata": []}).metadata is None
    assert Batch.model_validate({**RAW, "metadata": {"a": "b"}}).metadata == {"a": "b"}


def test_counts_of_null_are_zero() -> None:
    counts = Batch.model_validate({**RAW, "request_counts": {"total": None, "completed": None}}).request_counts
    assert counts is not None and (counts.total, counts.completed, counts.failed) == (0, 0, 0)


def test_ended_states_are_the_four_final_ones() -> None:
    states = Batch.model_validate
    ended = {
        status
        for status in openai.types.Batch.model_fields["status"].annotation.__args__
        if states({"id": "b", "input_file_id": "f", "status": status, "created_at": 1}).ended
    }
    assert ended == ENDED == {"completed", "failed", "expired", "cancelled"}


def test_a_page_keeps_what_it_lists() -> None:
    page = Page.model_validate({"object": "list", "data": [{"id": "b"}], "has_more": True, "last_id": "b"})
    assert (page.data, page.has_more, page.first_id) == ([{"id": "b"}], True, None)


# Limits and prices


def test_limits_are_the_documented_ones() -> None:
    documented = (200_000_000, 50_000, 50_000, 2_048, 300_000, 8_192)
    sizes = (OPENAI.file_bytes, OPENAI.batch_requests, OPENAI.batch_inputs, OPENAI.request_inputs)
    assert (*sizes, OPENAI.request_tokens, OPENAI.input_tokens) == documented
    assert LOCAL.file_bytes == OPENAI.file_bytes


def test_a_batch_costs_half() -> None:
    """But for two providers, whose rebates are a third."""
    third = {name for name in prices.PRICES if name.startswith(("voyage-", "Qwen/"))}
    assert all(
        price.batch == pytest.approx(price.sync / 2) for name, price in prices.PRICES.items() if name not in third
    )
    assert all(price.sync * 0.65 < price.batch < price.sync * 0.68 for price in map(prices.PRICES.get, third))  # type: ignore[union-attr]


def test_the_price_of_a_run() -> None:
    assert prices.batch_price("text-embedding-3-small", "openai") == 0.01
    assert prices.batch_price("text-embedding-3-small", "openai", 0.5) == 0.5
    assert prices.batch_price("text-embedding-3-small", "openai", 0.0) == 0.0
    assert prices.batch_price("all-MiniLM-L6-v2", "local") == 0.0
    assert prices.batch_price("somebody-elses", "generic") is None
    assert prices.cost_usd(3_000_000, 0.01) == pytest.approx(0.03)
    assert prices.cost_usd(5, None) is None
