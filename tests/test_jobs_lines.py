"""Result lines of any endpoint: success, refusal, and what is neither."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from embedfill.jobs.lines import Lines, parse_line


def response(status: object, body: object, error: object = None) -> dict[str, Any]:
    return {"custom_id": "s-0", "response": {"status_code": status, "body": body}, "error": error}


@pytest.mark.parametrize(
    "line, code, refused",
    [
        (response(200, {"a": 1}), "", False),
        (response(201, {}), "", False),
        (response(400, {"error": {"code": "bad", "message": "m"}}), "bad", True),
        (response(404, {"error": {"type": "gone"}}), "gone", True),
        (response(422, None), "http_422", True),
        (response(429, {"error": {"code": "slow"}}), "slow", False),
        (response(503, "html"), "http_503", False),
        (response(0, {}), "http_0", False),
        (response(200, None), "http_200", False),
        (response(200, {}, {"code": "late"}), "late", False),
        (response(None, {}), "http_0", False),
        ({"custom_id": "s-0", "response": None, "error": {"code": "batch_expired"}}, "batch_expired", False),
        ({"custom_id": "s-0"}, "absent", False),
    ],
)
def test_what_a_line_says(line: dict[str, Any], code: str, refused: bool) -> None:
    found = parse_line(orjson.dumps(line))
    assert (found.code, found.refused, found.custom_id) == (code, refused, "s-0")


@pytest.mark.parametrize("data", [b"{", b"[]", b"1"])
def test_what_is_no_line(data: bytes) -> None:
    with pytest.raises(ValueError):
        parse_line(data)


def scanned(folder: Path, output: list[Any], errors: list[Any]) -> Lines:
    files = []
    for name, lines in (("output", output), ("error", errors)):
        path = folder / name
        path.write_bytes(b"\n".join(line if isinstance(line, bytes) else orjson.dumps(line) for line in lines))
        files.append(path)
    found = Lines("s", files, 4)
    found.scan()
    return found


def line(request: int, said: str, status: int = 200) -> dict[str, Any]:
    body = {"said": said} if status == 200 else {"error": {"code": said}}
    return {**response(status, body), "custom_id": f"s-{request}"}


def test_answers_come_in_the_order_of_the_requests_each_once(tmp_path: Path) -> None:
    found = scanned(
        tmp_path,
        [line(2, "two"), b"", line(0, "zero"), line(2, "two"), line(0, "other"), b"{broken", line(9, "foreign")],
        [line(3, "bad", 400), line(2, "late", 400), line(1, "busy", 500), {"custom_id": None}],
    )
    assert [(request, one.body) for request, one in found.answered()] == [
        (0, {"said": "zero"}), (2, {"said": "two"}), (3, {"error": {"code": "bad"}}),
    ]  # fmt: skip
    assert found.anomalies == {
        "repeated_line": 1, "conflicting_line": 2, "not_json": 1, "foreign_custom_id": 2, "busy": 1,
    }  # fmt: skip
    assert len(found.odd_lines) == 5


def test_a_success_stands_against_an_earlier_refusal(tmp_path: Path) -> None:
    found = scanned(tmp_path, [line(1, "no", 400), line(1, "yes")], [])
    assert [one.body for _, one in found.answered()] == [{"said": "yes"}]
