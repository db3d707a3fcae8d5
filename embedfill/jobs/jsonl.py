"""Prepared batch files (JSONL) to requests, streaming. A bad line becomes a rejection and costs only itself."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import orjson

from embedfill.errors import UsageError
from embedfill.jobs.endpoints import ENDPOINTS, Endpoint
from embedfill.jobs.request import NOT_EXACT, Request, fault, rejection, too_large
from embedfill.records import Rejection

_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')
_WIDE = re.compile(rb"(?<![\d.eE+-])-?\d{19,}(?![\d.eE])")  # whole numbers that orjson may read as other ones
_MOST_DIGITS = 20
_BOM = b"\xef\xbb\xbf"


def read_jsonl(path: Path, endpoint: str, max_bytes: int) -> Iterator[Request | Rejection]:
    """The lines of a file in order, blank ones left out. Raises UsageError where it cannot be read."""
    known = ENDPOINTS[endpoint]
    try:
        with path.open("rb", buffering=1 << 20) as file:
            for number, line in enumerate(_lines(file, max_bytes), 1):
                if number == 1:
                    line = line.removeprefix(_BOM)
                if line is _TOO_LONG:
                    message = (
                        f"the line is longer than {max_bytes:,} bytes, which no batch file may be: split the request"
                    )
                    yield rejection(str(path), number, None, "too_large", message)
                elif line.strip():
                    yield _parsed(str(path), number, line, known)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}", "give a JSONL file of prepared requests") from None


_TOO_LONG = b"..."


def _lines(file: BinaryIO, max_bytes: int) -> Iterator[bytes]:
    """Split on newline bytes only; one that is too long is not held in memory."""
    while line := file.readline(max_bytes):
        if len(line) < max_bytes or line.endswith(b"\n"):
            yield line
            continue
        while (rest := file.readline(max_bytes)) and not rest.endswith(b"\n"):
            pass
        yield _TOO_LONG


def _parsed(file: str, row: int, line: bytes, endpoint: Endpoint) -> Request | Rejection:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return rejection(file, row, None, "not_json", f"the line is not JSON ({error}): mend or remove it")
    if not isinstance(value, dict):
        return rejection(file, row, None, "not_an_object", "the line is no JSON object: mend or remove it")
    name, body = value.get("custom_id"), value.get("body")
    if (url := value.get("url", endpoint.path)) != endpoint.path:
        message = f"its url is {url!r:.80}: run it with that --endpoint, this run is for {endpoint.path}"
        return rejection(file, row, name, "url_mismatch", message)
    if (method := value.get("method", "POST")) != "POST":
        return rejection(file, row, name, "wrong_method", f"its method is {method!r:.20}: it must be POST")
    if (problem := fault(name, body, endpoint)) or not isinstance(body, dict):
        return rejection(file, row, name, *(problem or ("no_body", "")))
    if _holds_too_large(line):
        return rejection(file, row, name, "number_too_large", f"it holds {NOT_EXACT}")
    return Request(row, str(name), body, orjson.dumps(body).decode())


def _holds_too_large(line: bytes) -> bool:
    if not _WIDE.search(line):
        return False
    found = _WIDE.findall(_STRING.sub(b'""', line))
    return any(len(number) > _MOST_DIGITS or too_large(int(number)) for number in found)
