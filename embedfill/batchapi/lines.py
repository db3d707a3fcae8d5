"""The lines of batch files: one request each. Writing them, and reading result lines without judging them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from embedfill.batchapi.dialect import OPENAI_DIALECT, Dialect

_NUMBER_DIGITS = 9  # of a request's number; more can only be damage, and Python refuses to read very many


@dataclass(frozen=True, slots=True)
class ResultLine:
    """A line of an output or error file. `body` is the response's body of a success, `code` and `message` the
    error's words; `ran` is False for a request that the provider never ran."""

    custom_id: str | None
    status: int
    body: Mapping[str, Any] | None
    code: str
    message: str
    ran: bool


def request_line(custom_id: str, body: object, endpoint: str, dialect: Dialect = OPENAI_DIALECT) -> bytes:
    """One request as a line with its newline. `body` may be an `orjson.Fragment`, JSON as it is."""
    line: dict[str, Any] = {"custom_id": custom_id}
    if dialect.model_in == "line":
        line |= {"method": "POST", "url": endpoint}
    return orjson.dumps({**line, "body": body}, option=orjson.OPT_APPEND_NEWLINE)


@dataclass(frozen=True, slots=True)
class EmbeddingsRequest:
    """What all embeddings requests of a space have in common: `encoding` "base64" or "float", `dimensions` None where
    the model's own are meant, `extra` parameters that only this provider has."""

    model: str
    encoding: str
    dimensions: int | None
    dialect: Dialect = OPENAI_DIALECT
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def options(self) -> dict[str, Any]:
        """Model and parameters, by the names that the dialect gives them."""
        found: dict[str, Any] = {"model": self.model, **self.extra}
        if self.dialect.encoding is not None and self.encoding != self.dialect.unsaid:
            found[self.dialect.encoding] = self.encoding
        if self.dialect.dimensions is not None and self.dimensions is not None:
            found[self.dialect.dimensions] = self.dimensions
        return found

    def line(self, custom_id: str, texts: Sequence[str]) -> bytes:
        options = self.options if self.dialect.model_in == "line" else {}
        return request_line(custom_id, {**options, "input": list(texts)}, self.dialect.endpoint, self.dialect)

    def body(self, texts: Sequence[str]) -> dict[str, Any]:
        """The same request to the synchronous endpoint."""
        return {**self.options, "input": list(texts)}

    @property
    def batch_options(self) -> dict[str, Any]:
        """What POST /batches says of the model, where lines do not."""
        return {"request_params": self.options} if self.dialect.model_in == "batch" else {}


def custom_id(shard: str, request: int) -> str:
    return f"{shard}-{request}"


def request_number(shard: str, value: str | None) -> int | None:
    """The request number in a custom_id of this shard; None if it is not one of its own."""
    prefix, _, number = (value or "").rpartition("-")
    known = prefix == shard and number.isascii() and number.isdigit() and len(number) <= _NUMBER_DIGITS
    return int(number) if known else None


def lines_of(path: Path) -> Iterator[bytes]:
    """The lines of a file, split on newline bytes only: U+2028 and its like are legal inside JSON strings."""
    with path.open("rb", buffering=1 << 20) as file:
        for line in file:
            if stripped := line.strip():
                yield stripped


def parse_result(line: bytes) -> ResultLine:
    """Reads a result line. Raises ValueError when it is not a JSON object of that shape."""
    try:
        raw = orjson.loads(line)
    except orjson.JSONDecodeError as problem:
        raw = _with_constants(line)
        if raw is None:
            raise ValueError(f"not JSON: {problem}") from None
    if not isinstance(raw, dict):
        raise ValueError("not a JSON object")
    name = raw["custom_id"] if isinstance(raw.get("custom_id"), str) else None
    response, error = raw.get("response"), raw.get("error")
    if not isinstance(response, dict):
        code, message = _words(error)
        return ResultLine(name, 0, None, code or "absent", message, ran=False)
    status, body = response.get("status_code"), response.get("body")
    status = status if isinstance(status, int) else 0
    if status == 200 and isinstance(body, dict) and "data" in body:
        return ResultLine(name, status, body, "", "", ran=True)
    inner = body.get("error") if isinstance(body, dict) else None
    code, message = _words(inner or error)
    return ResultLine(name, status, None, code or f"http_{status}", message or _shown(body)[:500], ran=status >= 400)


def _with_constants(line: bytes) -> Any:  # noqa: ANN401
    """A line that is JSON but for the words NaN and Infinity, which some servers write, with null for them; else None."""
    if b"NaN" not in line and b"Infinity" not in line:
        return None
    try:
        return orjson.loads(orjson.dumps(json.loads(line, parse_constant=lambda _: None)))
    except (ValueError, TypeError, RecursionError):
        return None


def _words(error: object) -> tuple[str, str]:
    if isinstance(error, dict):
        return _shown(error.get("code") or error.get("type") or ""), _shown(error.get("message") or "")
    return "", _shown(error or "")


def _shown(value: object) -> str:
    try:
        return str(value)
    except RecursionError:  # JSON may be nested deeper than Python can show
        return type(value).__name__
