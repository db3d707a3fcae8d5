"""Every bad line of a batch file is found, with the API's code, and one of them fails the whole batch."""

import errno
from pathlib import Path
from typing import Any

import pytest

from embedfill.engine.settings import RouteSettings
from embedfill.engine.work import validate as validate_module
from embedfill.engine.work import validator as validator_module
from embedfill.engine.work.served import Served
from embedfill.engine.work.validate import Verdict, validate
from tests.bench_fixtures import Bench
from tests.engine_fixtures import STATIC, EngineProcess, jsonl, request_line

MODELS = (STATIC, "all-MiniLM-L6-v2")
ROUTES = {"gpt-*": RouteSettings(base_url="http://127.0.0.1:1"), "omni-*": RouteSettings(base_url="http://127.0.0.1:1")}


def _verdict(path: Path, data: bytes, endpoint: str = "/v1/embeddings") -> Verdict:
    path.write_bytes(data)
    verdict = validate(path, endpoint, Served(MODELS, ROUTES), lambda: False)
    assert verdict is not None
    return verdict


def _found(verdict: Verdict) -> list[tuple[Any, ...]]:
    return [(error.code, error.param, error.line) for error in verdict.errors]


def _changed(own_id: str, /, **changes: object) -> dict[str, Any]:
    line = {**request_line(own_id, "text"), **changes}
    return {key: value for key, value in line.items() if value is not ...}


def test_a_good_file(tmp_path: Path) -> None:
    verdict = _verdict(tmp_path / "f", b"\n" + jsonl(request_line(str(n), "text") for n in range(3)) + b"  \n")
    assert (verdict.model, verdict.total, verdict.errors) == (STATIC, 3, [])


@pytest.mark.parametrize(
    ("line", "code", "param"),
    [
        (_changed("a", custom_id=...), "missing_required_parameter", "custom_id"),
        (_changed(""), "missing_required_parameter", "custom_id"),
        (_changed("a", custom_id=7), "invalid_type", "custom_id"),
        (_changed("a", method=...), "missing_required_parameter", "method"),
        (_changed("a", method="GET"), "invalid_method", "method"),
        (_changed("a", url=...), "missing_required_parameter", "url"),
        (_changed("a", url="/v1/chat/completions"), "invalid_url", "url"),
        (_changed("a", body=...), "missing_required_parameter", "body"),
        (_changed("a", body="text"), "invalid_type", "body"),
        (_changed("a", body={"input": "text"}), "missing_required_parameter", "body.model"),
        (request_line("a", "text", "none"), "model_not_found", "body.model"),
        (request_line("a", "text", MODELS[1]), "mismatched_model", "body.model"),
        (request_line("a", None), "missing_required_parameter", "body.input"),
        (_changed("a" * 513), "string_above_max_length", "custom_id"),
        (request_line("a", "text", stream=True), "streaming_unsupported", "body.stream"),
        (_changed("first"), "duplicate_custom_id", "custom_id"),
        ([1], "invalid_json_line", None),
    ],
)
def test_a_bad_line(tmp_path: Path, line: object, code: str, param: str | None) -> None:
    verdict = _verdict(tmp_path / "f", jsonl([request_line("first", "text"), line, request_line("last", "text")]))
    assert _found(verdict) == [(code, param, 2)]


@pytest.mark.parametrize(
    ("endpoint", "body", "missing"),
    [
        ("/v1/chat/completions", {"model": "gpt-a", "messages": []}, None),
        ("/v1/chat/completions", {"model": "gpt-a", "input": "text"}, "body.messages"),
        ("/v1/chat/completions", {"messages": []}, "body.model"),
        ("/v1/completions", {"model": "gpt-a", "prompt": ""}, None),
        ("/v1/completions", {"model": "gpt-a"}, "body.prompt"),
        ("/v1/responses", {"model": "gpt-a", "input": "text"}, None),
        ("/v1/responses", {"model": "gpt-a", "prompt": {"id": "pmpt_1"}}, None),
        ("/v1/responses", {"model": "gpt-a"}, "body.input"),
        ("/v1/responses", {"input": "text"}, "body.model"),
        ("/v1/moderations", {"model": "omni-a", "input": "text"}, None),
        ("/v1/moderations", {"input": "text"}, None),
        ("/v1/moderations", {}, "body.input"),
    ],
)
def test_what_each_endpoint_asks_for(tmp_path: Path, endpoint: str, body: dict[str, Any], missing: str | None) -> None:
    line = {"custom_id": "a", "method": "POST", "url": endpoint, "body": body}
    verdict = _verdict(tmp_path / "f", jsonl([line]), endpoint)
    assert _found(verdict) == ([("missing_required_parameter", missing, 1)] if missing else [])
    assert missing or verdict.model == body.get("model", "omni-moderation-latest")


def test_every_bad_line_is_listed_by_its_number_in_the_file(tmp_path: Path) -> None:
    lines = [b" \r\n" if n % 5 == 0 else jsonl([_changed(f"r{n}", method="GET" if n % 3 == 0 else "POST")])
             for n in range(1, 6_001)]  # fmt: skip
    verdict = _verdict(tmp_path / "f", b"".join(lines))
    assert [error.line for error in verdict.errors] == [n for n in range(1, 6_001) if n % 3 == 0 and n % 5]
    assert verdict.total == 4_800


def test_lines_may_end_as_on_windows(tmp_path: Path) -> None:
    data = jsonl(request_line(str(n), "text") for n in range(3)).replace(b"\n", b"\r\n")
    verdict = _verdict(tmp_path / "f", data.removesuffix(b"\r\n"))
    assert (verdict.total, verdict.errors) == (3, [])


@pytest.mark.parametrize("last", [b"", b"\n"])
def test_a_line_without_end_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: bytes) -> None:
    monkeypatch.setattr(validate_module, "BODY_BYTES", 1_000)
    line = jsonl([request_line("a", "x" * 2_000)]).strip()
    fits = jsonl([request_line("b", "")]).strip().replace(b'""', b'"' + b"x" * 500 + b'"')
    fits += b" " * (1_000 - len(fits))
    data = b"\n".join([line, fits, line * 200, fits.replace(b'"b"', b'"c"'), line]) + last
    verdict = _verdict(tmp_path / "f", data)
    assert _found(verdict) == [("invalid_json_line", None, number) for number in (1, 3, 5)]
    assert "longer than 1000 bytes" in str(verdict.errors[0].message)


def test_messages_stay_short_and_say_what_to_do(tmp_path: Path) -> None:
    lines = [b"\xef\xbb\xbf{}\n", jsonl([_changed("a", url="x" * 100_000), request_line("b", "t", "y" * 100_000)])]
    messages = [str(error.message) for error in _verdict(tmp_path / "f", b"".join(lines)).errors]
    assert "byte order mark" in messages[0]
    assert len(messages) == 3 and max(map(len, messages)) < 500


def test_validation_can_be_stopped(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(jsonl(request_line(str(n), "text") for n in range(10)))
    asked: list[int] = []
    assert (
        validate(tmp_path / "f", "/v1/embeddings", Served(MODELS, {}), lambda: bool(asked) or asked.append(1)) is None
    )


DEEP = b'{"a": ' + b"[" * 5_000 + b"]" * 5_000 + b"}"


@pytest.mark.parametrize(
    "raw",
    [DEEP, b'{"a": ' * 300 + b"1" + b"}" * 300, b"{", b'{"a": NaN}', b'{"a": "\\ud800"}', b'"\xff"', b"\xef\xbb\xbf{}"],
)
def test_what_is_no_json(tmp_path: Path, raw: bytes) -> None:
    assert _found(_verdict(tmp_path / "f", raw + b"\n")) == [("invalid_json_line", None, 1)]


def test_odd_separators_do_not_end_a_line(tmp_path: Path) -> None:
    text = "a\u2028b\u2029c\u0085d"
    data = f'{{"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {{"model": "{STATIC}", "input": "{text}"}}}}'
    verdict = _verdict(tmp_path / "f", data.encode())
    assert (verdict.total, verdict.errors) == (1, [])


def test_an_empty_file(tmp_path: Path) -> None:
    assert _found(_verdict(tmp_path / "f", b"\n\n")) == [("empty_file", None, None)]


def test_too_many_requests(tmp_path: Path) -> None:
    verdict = _verdict(tmp_path / "f", jsonl(request_line(str(n), "t") for n in range(50_001)))
    assert _found(verdict) == [("too_many_tasks", None, None)]


def test_one_bad_line_fails_the_batch(engine: EngineProcess) -> None:
    lines = jsonl([request_line("a", "text"), request_line("b", "text", "none")]) + b"\nno json\n" + jsonl([{}])
    batch = engine.finished(engine.submit(lines))
    assert (batch["status"], batch["output_file_id"], batch["error_file_id"]) == ("failed", None, None)
    assert [(error["code"], error["line"]) for error in batch["errors"]["data"]] == [
        ("model_not_found", 2),
        ("invalid_json_line", 4),
        ("missing_required_parameter", 5),
    ]
    assert batch["failed_at"] >= batch["created_at"] and batch["in_progress_at"] is None


@pytest.mark.parametrize("file_id", ["file-none", "../engine.db", "../../etc/passwd"])
def test_a_missing_input_fails_the_batch_later(engine: EngineProcess, file_id: str) -> None:
    body = {"input_file_id": file_id, "endpoint": "/v1/embeddings", "completion_window": "24h"}
    batch = engine.finished(engine.post("/batches", json=body).raise_for_status().json()["id"])
    (error,) = batch["errors"]["data"]
    assert (batch["status"], error["code"], error["line"]) == ("failed", "invalid_request", None)


def test_a_file_of_another_purpose_fails_the_batch(engine: EngineProcess) -> None:
    file_id = engine.upload(jsonl([request_line("a", "text")]), purpose="user_data").json()["id"]
    body = {"input_file_id": file_id, "endpoint": "/v1/embeddings", "completion_window": "24h"}
    batch = engine.finished(engine.post("/batches", json=body).raise_for_status().json()["id"])
    assert batch["errors"]["data"][0]["code"] == "invalid_request"


def _told(bench: Bench, batch_id: str) -> str | None:
    """What its client is told of a batch that was refused."""
    batch = bench.get(batch_id)
    assert batch.status == "failed" and batch.errors is not None
    (error,) = batch.errors.data
    assert (error.code, error.param) == ("invalid_request", "input_file_id")
    return error.message


def test_a_file_that_is_deleted_while_its_batch_is_validated(bench: Bench) -> None:
    file_id = bench.file(jsonl([request_line("a", "text")]))
    batch_id = bench.create(file_id)
    bench.files.path(file_id).unlink()  # its row was seen, and is gone a moment later
    assert bench.validator.step()
    assert _told(bench, batch_id) == f"The input file '{file_id}' cannot be used: No such File object: {file_id}"


def test_a_file_that_cannot_be_read(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried three times, while others have their turns."""
    batch_id = bench.batch(jsonl([request_line("a", "text")]), valid=False, owner="us")
    other_id = bench.batch(jsonl([request_line("a", "text")]), valid=False, owner="them")
    broken = bench.spools.input(batch_id)

    def read(path: Path, *others: Any) -> Verdict | None:
        if path == broken:
            raise OSError(errno.EIO, "Input/output error", str(path))
        return validate(path, *others)

    monkeypatch.setattr(validator_module, "validate", read)
    assert [bench.validator.step() for _ in range(4)] == [False, True, False, True]
    assert bench.get(other_id).status == "in_progress"
    told = _told(bench, batch_id)
    assert told is not None and told.endswith("cannot be used: It cannot be read.") and str(bench.root) not in told
    assert not broken.exists()
