"""Prepared lines to requests: what is wrong with a line, and that it costs only itself."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from embedfill.errors import UsageError
from embedfill.jobs.jsonl import read_jsonl
from embedfill.jobs.request import Request
from embedfill.records import Rejection
from tests.chat_fixtures import CHAT, chat_line

GOOD = chat_line("good", "hello")


def read(path: Path, *lines: Any, endpoint: str = CHAT, most: int = 10_000) -> list[Request | Rejection]:
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else orjson.dumps(line) for line in lines))
    return list(read_jsonl(path, endpoint, most))


@pytest.mark.parametrize(
    "line, code",
    [
        (b'{"custom_id": ', "not_json"),
        (b'{"custom_id": "a", "body": {"model": "m", "x": "\\ud800"}}', "not_json"),
        (b"\xff\xfe", "not_json"),
        (b"[1]", "not_an_object"),
        ({**GOOD, "custom_id": None}, "no_custom_id"),
        ({**GOOD, "custom_id": 7}, "no_custom_id"),
        ({**GOOD, "url": "/v1/embeddings"}, "url_mismatch"),
        ({**GOOD, "method": "GET"}, "wrong_method"),
        ({**GOOD, "body": "text"}, "no_body"),
        ({**GOOD, "body": {"messages": [1]}}, "no_model"),
        ({**GOOD, "body": {"model": "m"}}, "no_messages"),
        (chat_line("a", "x", stream=True), "streaming_unsupported"),
        (chat_line("a", "x" * 10_000), "too_large"),
        (
            b'{"custom_id": "a", "body": {"model": "m", "messages": [1], "seed": 18446744073709551616}}',
            "number_too_large",
        ),
        (b'{"custom_id": "a", "body": {"model": "m", "messages": [-%s]}}' % (b"9" * 300), "number_too_large"),
    ],
)
def test_a_bad_line_is_a_rejection_between_good_ones(tmp_path: Path, line: Any, code: str) -> None:
    first, bad, last = read(tmp_path / "in.jsonl", GOOD, line, b"", {**GOOD, "custom_id": "last"})
    assert isinstance(first, Request) and isinstance(last, Request) and isinstance(bad, Rejection)
    assert (first.custom_id, first.row, last.custom_id, last.row) == ("good", 1, "last", 4)
    assert (bad.code, bad.source and bad.source.row) == (code, 2) and bad.message


def test_lines_end_at_newlines_alone_and_a_mark_at_the_start_is_no_text(tmp_path: Path) -> None:
    line = orjson.dumps(chat_line("a\u2028b", "x\u0085y"))
    (found,) = read(tmp_path / "in.jsonl", b"\xef\xbb\xbf" + line + b"\r")
    assert isinstance(found, Request) and found.custom_id == "a\u2028b"


def test_a_line_that_is_too_long_is_not_held(tmp_path: Path) -> None:
    found = read(tmp_path / "in.jsonl", GOOD, b"x" * 50_000, b"y" * 10_000, GOOD, most=9_999)
    assert [getattr(one, "code", "ok") for one in found] == ["ok", "too_large", "too_large", "ok"]


def test_method_and_url_may_be_left_out(tmp_path: Path) -> None:
    (found,) = read(tmp_path / "in.jsonl", {"custom_id": "a", "body": GOOD["body"]})
    assert isinstance(found, Request) and found.body == GOOD["body"]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.jsonl: No such file"):
        list(read_jsonl(tmp_path / "none.jsonl", CHAT, 100))


def test_large_numbers_that_go_out_as_they_are_pass(tmp_path: Path) -> None:
    said = 'a "quoted" 123456789012345678901234567890'
    line = chat_line("a", said, seed=2**64 - 1, low=-(2**63), top_p=0.1234567890123456789012345)
    (found,) = read(tmp_path / "in.jsonl", line)
    assert isinstance(found, Request) and found.body == line["body"]


def test_a_name_that_is_a_number_is_told(tmp_path: Path) -> None:
    (found,) = read(tmp_path / "in.jsonl", {**GOOD, "custom_id": 7})
    assert isinstance(found, Rejection) and found.document_id == "7"
