"""Checks a batch input file line by line and lists every bad line. Reads one line at a time; runs nothing."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from embedfill.batchapi.limits import LOCAL
from embedfill.batchapi.models import BatchError
from embedfill.engine.served import Served


@dataclass(slots=True)
class Verdict:
    """What a file holds: its model, the number of requests, and what is wrong with it (then nothing runs)."""

    model: str | None = None
    total: int = 0
    errors: list[BatchError] = field(default_factory=list)


def validate(path: Path, endpoint: str, served: Served, stopped: Callable[[], bool]) -> Verdict | None:
    """The verdict on a file for `endpoint`, or None where `stopped` said so before the end. Raises FileNotFoundError."""
    verdict = Verdict()
    known_ids: set[str] = set()
    for number, raw in requests(path):
        if stopped():
            return None
        verdict.total += 1
        if verdict.total > LOCAL.batch_requests:
            message = f"The batch has more than {LOCAL.batch_requests} requests; split the file."
            return Verdict(verdict.model, 0, [BatchError(code="too_many_tasks", message=message)])
        error = _check(raw, endpoint, served, verdict, known_ids)
        if error is not None:
            error.line = number
            verdict.errors.append(error)
    if not verdict.total:
        verdict.errors.append(BatchError(code="empty_file", message="The input file has no requests."))
    return verdict


def requests(path: Path) -> Iterator[tuple[int, bytes]]:
    """Number, from 1, and bytes of each line that is not blank."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if raw.strip():
                yield number, raw


def _check(raw: bytes, endpoint: str, served: Served, verdict: Verdict, known_ids: set[str]) -> BatchError | None:
    """The first thing that is wrong with a line. Notes its id, and the model of the first line that names one."""
    try:
        line = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        return _error("invalid_json_line", f"This line is not parseable as valid JSON: {error}.", None)
    if not isinstance(line, dict):
        return _error("invalid_json_line", "This line is not a JSON object.", None)
    return _check_envelope(line, endpoint, known_ids) or _check_body(line["body"], endpoint, served, verdict)


def _check_envelope(line: dict[str, Any], endpoint: str, known_ids: set[str]) -> BatchError | None:
    for name, kind in (("custom_id", str), ("method", str), ("url", str), ("body", dict)):
        value = line.get(name)
        if value is None or value == "":
            return _error("missing_required_parameter", f"Missing required parameter: '{name}'.", name)
        if not isinstance(value, kind):
            return _error("invalid_type", f"'{name}' must be {'an object' if kind is dict else 'a string'}.", name)
    custom_id = line["custom_id"]
    if custom_id in known_ids:
        return _error("duplicate_custom_id", f"The custom_id '{custom_id}' was used by a line before.", "custom_id")
    known_ids.add(custom_id)
    if line["method"] != "POST":
        return _error("invalid_method", f"The method must be POST, not '{line['method']}'.", "method")
    if line["url"] != endpoint:
        return _error("invalid_url", f"The url '{line['url']}' is not the batch's endpoint '{endpoint}'.", "url")
    return None


def _check_body(body: dict[str, Any], endpoint: str, served: Served, verdict: Verdict) -> BatchError | None:
    model = body.get("model")
    if model is None or model == "":
        return _error("missing_required_parameter", "Missing required parameter: 'body.model'.", "body.model")
    if not isinstance(model, str):
        return _error("invalid_type", "'body.model' must be a string.", "body.model")
    if not served.knows(model, endpoint):
        message = f"The model '{model}' is not served at {endpoint} here; there are: {', '.join(served.names)}."
        return _error("model_not_found", message, "body.model")
    verdict.model = verdict.model or model
    if model != verdict.model:
        message = f"All requests of a batch have one model: '{model}' here, '{verdict.model}' before."
        return _error("mismatched_model", message, "body.model")
    if body.get("stream"):
        return _error("streaming_unsupported", "Streaming is not supported in a batch.", "body.stream")
    return None


def _error(code: str, message: str, param: str | None) -> BatchError:
    return BatchError(code=code, message=message, param=param)
