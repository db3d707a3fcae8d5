"""Result lines of any endpoint: read, judged, and found again in the order of the requests. Writes nothing."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from embedfill.batchapi.lines import request_number

_KEEP_WORDS = 2_000  # characters of a provider's message
_KEEP_CODE = 64
_KEEP_KINDS = 64
_KEEP_LINES = 20
_PASSING = (408, 409, 429)  # the provider's own trouble says nothing of the request


@dataclass(frozen=True, slots=True)
class Line:
    """A result line, read. `code` is empty for a success; `ran` is False for a request that the provider never ran."""

    custom_id: str | None
    status: int
    body: Any
    code: str = ""
    message: str = ""
    ran: bool = True

    @property
    def refused(self) -> bool:
        """Whether the provider's error is about the request."""
        return bool(self.code) and self.ran and 400 <= self.status < 500 and self.status not in _PASSING


def parse_line(data: bytes) -> Line:
    """Reads a result line of any endpoint. Raises ValueError when it is no JSON object."""
    value = orjson.loads(data)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    name = value["custom_id"] if isinstance(value.get("custom_id"), str) else None
    response, error = value.get("response"), value.get("error")
    if not isinstance(response, dict):
        return Line(name, 0, None, *words(error, "absent"), ran=False)
    status, body = response.get("status_code"), response.get("body")
    status = status if isinstance(status, int) else 0
    if 200 <= status < 300 and isinstance(body, dict) and not error:
        return Line(name, status, body)
    inner = body.get("error") if isinstance(body, dict) else body
    return Line(name, status, body, *words(inner or error, f"http_{status}"), ran=status >= 400)


def words(error: object, otherwise: str) -> tuple[str, str]:
    """Code and message of a provider's error; `otherwise` where it has no code."""
    if not isinstance(error, dict):
        return otherwise, str(error or "")[:_KEEP_WORDS]
    code = error.get("code") or error.get("type") or otherwise
    return str(code)[:_KEEP_CODE], str(error.get("message") or "")[:_KEEP_WORDS]


@dataclass(slots=True)
class Lines:
    """Which line of which file answers each request: an output file's lines come in any order."""

    shard: str
    files: list[Path]
    requests: int
    anomalies: Counter[str] = field(default_factory=Counter)
    odd_lines: list[str] = field(default_factory=list)
    place: NDArray[np.int64] = field(init=False)  # of each request: file, start, length; -1: none
    good: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        self.place = np.full((self.requests, 3), -1, np.int64)
        self.good = np.zeros(self.requests, bool)

    def scan(self) -> None:
        for number, path in enumerate(self.files):
            start = 0
            with path.open("rb", buffering=1 << 20) as file:
                for line in file:
                    if line.strip():
                        self._see(line, number, start)
                    start += len(line)

    def _see(self, data: bytes, file: int, start: int) -> None:
        try:
            line = parse_line(data)
        except ValueError:
            return self._odd("not_json", data)
        request = request_number(self.shard, line.custom_id)
        if request is None or request >= self.requests:
            return self._odd("foreign_custom_id", data)
        if line.code and not line.refused:
            return self._count(line.code)
        if self.good[request] or (line.code and self.place[request, 0] >= 0):
            same = self.read(request) == data.strip()
            return self._odd("repeated_line" if same else "conflicting_line", data)
        self.place[request] = file, start, len(data)
        self.good[request] = not line.code
        return None

    def read(self, request: int) -> bytes:
        file, start, size = self.place[request].tolist()
        with self.files[int(file)].open("rb") as opened:
            opened.seek(start)
            return bytes(opened.read(size)).strip()

    def answered(self) -> Iterator[tuple[int, Line]]:
        """Requests with their lines, in order."""
        opened = [path.open("rb", buffering=1 << 20) for path in self.files]
        try:
            for request, (file, start, size) in enumerate(self.place.tolist()):
                if file >= 0:
                    if opened[file].tell() != start:
                        opened[file].seek(start)
                    yield request, parse_line(opened[file].read(size))
        finally:
            for one in opened:
                one.close()

    def _odd(self, kind: str, line: bytes) -> None:
        self._count(kind)
        if kind != "repeated_line" and len(self.odd_lines) < _KEEP_LINES:
            self.odd_lines.append(f"{kind}: {line[:_KEEP_WORDS].decode(errors='replace')}")

    def _count(self, kind: str) -> None:
        known = kind in self.anomalies or len(self.anomalies) < _KEEP_KINDS
        self.anomalies[kind if known else "other"] += 1
