"""Checks a batch input file line by line and lists every bad line. Reads one line at a time; runs nothing."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from embedfill.batchapi.limits import BODY_BYTES
from embedfill.batchapi.models import BatchError
from embedfill.engine.json_text import loads
from embedfill.engine.state.allowance import UNLIMITED, Allowance
from embedfill.engine.work.prompts import Prompts
from embedfill.engine.work.served import Served
from embedfill.jobs.endpoints import ENDPOINTS

_BLOCK = 1 << 17
_BOM = b"\xef\xbb\xbf"
_CUSTOM_ID_CHARS = 512  # no limit is documented; ids are held for a whole file
_SHOWN_CHARS = 100  # of what a line says, in a message about it
_MODERATIONS = "/v1/moderations"
_MODERATION_MODEL = "omni-moderation-latest"  # that endpoint's own default: no other may go without a model
_RESPONSES = "/v1/responses"  # may have a stored prompt in place of an input


@dataclass(slots=True)
class Verdict:
    """What a file holds: its model, the number of requests, and what is wrong with it (then nothing runs). `tokens` of
    its prompts where they are limited, else 0."""

    model: str | None = None
    total: int = 0
    errors: list[BatchError] = field(default_factory=list)
    tokens: int = 0


def validate(
    path: Path, endpoint: str, served: Served, stopped: Callable[[], bool], allowance: Allowance = UNLIMITED
) -> Verdict | None:
    """The verdict on a file for `endpoint`, or None where `stopped` said so before the end. Raises FileNotFoundError,
    and ModelError where tokens are to be counted and cannot be."""
    check = _Check(endpoint, served, allowance)
    for number, raw in requests(path):
        if stopped():
            return None
        check.line(number, raw)
        if check.overfull:
            return Verdict(check.model, errors=[check.overfull])
    return check.verdict()


def requests(path: Path) -> Iterator[tuple[int, bytes]]:
    """Number, from 1, and bytes of each line that is not blank; of one that is too long, its beginning."""
    with path.open("rb", buffering=_BLOCK) as file:
        for number, raw in enumerate(iter(partial(file.readline, BODY_BYTES + 1), b""), 1):
            rest = raw if _too_long(raw) else b"\n"
            while rest and not rest.endswith(b"\n"):
                rest = file.readline(_BLOCK)
            if not raw.isspace():
                yield number, raw


def _too_long(raw: bytes) -> bool:
    return len(raw) > BODY_BYTES and not raw.endswith(b"\n")


class _Check:
    """The lines of one file so far: the ids that were used, and the model of the first line that names one."""

    def __init__(self, endpoint: str, served: Served, allowance: Allowance) -> None:
        self.model: str | None = None
        self.overfull: BatchError | None = None
        self._endpoint = endpoint
        self._served = served
        self._limits = allowance.limits
        self._total = 0
        self._errors: list[BatchError] = []
        self._ids: set[str] = set()
        counts_tokens = allowance.enqueued_tokens is not None
        counted = allowance.counts_inputs or counts_tokens
        self._prompts = Prompts(endpoint, counts_tokens) if counted else None
        self._most_inputs = allowance.limits.batch_inputs if allowance.counts_inputs else None

    def line(self, number: int, raw: bytes) -> None:
        self._total += 1
        if self._total > self._limits.batch_requests:
            self.overfull = _too_many(self._limits.batch_requests, "requests")
            return
        error = self._wrong(raw)
        if error is not None:
            error.line = number
            self._errors.append(error)

    def verdict(self) -> Verdict:
        if not self._total:
            self._errors.append(BatchError(code="empty_file", message="The input file has no requests."))
        tokens = self._prompts.tokens() if self._prompts and not self._errors else 0
        return Verdict(self.model, self._total, self._errors, tokens)

    def _wrong(self, raw: bytes) -> BatchError | None:
        """The first thing that is wrong with a line."""
        if _too_long(raw):
            return _error("invalid_json_line", f"This line is longer than {BODY_BYTES} bytes.", None)
        try:
            line = loads(raw)
        except orjson.JSONDecodeError as error:
            hint = " The file starts with a byte order mark: write it without one." if raw.startswith(_BOM) else ""
            return _error("invalid_json_line", f"This line is not parseable as valid JSON: {error}.{hint}", None)
        if not isinstance(line, dict):
            return _error("invalid_json_line", "This line is not a JSON object.", None)
        return self._wrong_envelope(line) or self._wrong_body(line["body"])

    def _wrong_envelope(self, line: dict[str, Any]) -> BatchError | None:
        for name, kind in (("custom_id", str), ("method", str), ("url", str), ("body", dict)):
            value = line.get(name)
            if value is None or value == "":
                return _missing(name)
            if not isinstance(value, kind):
                return _error("invalid_type", f"'{name}' must be {'an object' if kind is dict else 'a string'}.", name)
        method, url = line["method"], line["url"]
        wrong = self._wrong_id(line["custom_id"])
        if wrong is None and method != "POST":
            wrong = _error("invalid_method", f"The method must be POST, not '{_shown(method)}'.", "method")
        if wrong is None and url != self._endpoint:
            message = f"The url '{_shown(url)}' is not the batch's endpoint '{self._endpoint}'."
            wrong = _error("invalid_url", message, "url")
        return wrong

    def _wrong_id(self, custom_id: str) -> BatchError | None:
        if len(custom_id) > _CUSTOM_ID_CHARS:
            message = f"The custom_id has {len(custom_id)} characters; at most {_CUSTOM_ID_CHARS} are allowed."
            return _error("string_above_max_length", message, "custom_id")
        if custom_id in self._ids:
            message = f"The custom_id '{_shown(custom_id)}' was used by a line before."
            return _error("duplicate_custom_id", message, "custom_id")
        self._ids.add(custom_id)
        return None

    def _wrong_body(self, body: dict[str, Any]) -> BatchError | None:
        model = body.get("model") or (_MODERATION_MODEL if self._endpoint == _MODERATIONS else None)
        if model is None:
            return _missing("body.model")
        if not isinstance(model, str):
            return _error("invalid_type", "'body.model' must be a string.", "body.model")
        wrong = self._wrong_model(model)
        if wrong is None and body.get("stream"):
            wrong = _error("streaming_unsupported", "Streaming is not supported in a batch.", "body.stream")
        asked = ENDPOINTS[self._endpoint].asks
        if wrong is None and body.get(asked) is None and (self._endpoint != _RESPONSES or body.get("prompt") is None):
            wrong = _missing(f"body.{asked}")
        if wrong is None and self._prompts is not None:
            self._count(self._prompts, model, body)
        return wrong

    def _wrong_model(self, model: str) -> BatchError | None:
        if not self._served.knows(model, self._endpoint):
            there = _shown(self._served.at(self._endpoint))
            message = f"The model '{_shown(model)}' is not served at {self._endpoint} here; there are: {there}."
            return _error("model_not_found", message, "body.model")
        self.model = self.model or model
        if model != self.model:
            message = f"All requests of a batch have one model: '{_shown(model)}' here, '{_shown(self.model)}' before."
            return _error("mismatched_model", message, "body.model")
        return None

    def _count(self, prompts: Prompts, model: str, body: dict[str, Any]) -> None:
        prompts.add(model, body)
        if self._most_inputs is not None and prompts.inputs > self._most_inputs:
            self.overfull = _too_many(self._most_inputs, "inputs")


def _too_many(most: int, what: str) -> BatchError:
    return BatchError(code="too_many_tasks", message=f"The batch has more than {most} {what}; split the file.")


def _missing(name: str) -> BatchError:
    return _error("missing_required_parameter", f"Missing required parameter: '{name}'.", name)


def _error(code: str, message: str, param: str | None) -> BatchError:
    return BatchError(code=code, message=message, param=param)


def _shown(text: str) -> str:
    """The line's own words, cut where they are long: each of 50,000 lines may be bad, and all are listed."""
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…"
