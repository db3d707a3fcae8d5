"""The output and error file of one ended batch, against its shard, to a pack and the provider's refusals.

Lines may come in any order. A request counts once: of equal lines the first is used, of different ones the first
success; the others are kept for inspection. Whatever is missing or unusable is simply not in the pack; an embedding
that makes no sense costs its text a try, one of another length than configured does not: that is not the text's fault.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embedfill import ids
from embedfill.batchapi.lines import ResultLine, lines_of, parse_result, request_number
from embedfill.ids import IdArray
from embedfill.loader.decode import BadDataError, Decoded, prompt_tokens, vectors_of
from embedfill.loader.packs import PackWriter
from embedfill.records import Refusal

_KEEP_LINES = 20  # odd lines kept for inspection, at most
_KEEP_BYTES = 2_000
_KEEP_CODE = 64  # characters of an error code
_BAD_VECTOR = "the provider's embedding of it is null, not finite, all zeros or no vector at all"
_KEEP_KINDS = 64  # kinds of anomalies; codes are the provider's, and could be different in every line


@dataclass(frozen=True, slots=True)
class Requests:
    """Which texts each request of a shard holds: request i has `text_ids[starts[i]:starts[i + 1]]`."""

    shard: str
    text_ids: IdArray
    starts: list[int]

    def ids_of(self, request: int) -> IdArray:
        return self.text_ids[self.starts[request] : self.starts[request + 1]]

    def __len__(self) -> int:
        return len(self.starts) - 1


@dataclass(slots=True)
class Loaded:
    """What a batch brought. `refusals` are the provider's errors, `unusable` its answers that made no sense, per text.
    `unmetered` requests ran, and no line says what they cost. `anomalies` counts what was odd, by kind; `odd_lines` are
    the first of them."""

    vectors: int = 0
    prompt_tokens: int = 0
    ids: bytes = b""
    refusals: list[Refusal] = field(default_factory=list)
    unusable: list[Refusal] = field(default_factory=list)
    unmetered: list[int] = field(default_factory=list)
    anomalies: Counter[str] = field(default_factory=Counter)
    odd_lines: list[str] = field(default_factory=list)


def load_batch(requests: Requests, files: list[Path], dimensions: int, pack: Path) -> Loaded:
    """Reads the files of an ended batch (output first, then error) and writes the pack of their vectors to `pack`."""
    return _Loading(requests, dimensions).run(files, pack)


class _Loading:
    def __init__(self, requests: Requests, dimensions: int) -> None:
        self.requests = requests
        self.dimensions = dimensions
        self.done: dict[int, bytes] = {}  # request -> digest of the line that was used
        self.failed: dict[int, ResultLine] = {}
        self.unusable: dict[int, BadDataError] = {}
        self.tokens: dict[int, int] = {}  # request -> what its first line with a usage says: it ran once
        self.loaded = Loaded()

    def run(self, files: list[Path], pack: Path) -> Loaded:
        with PackWriter(pack, self.dimensions) as writer:
            for file in files:
                for line in lines_of(file):
                    self._line(line, writer)
        loaded = self.loaded
        loaded.vectors = writer.rows
        loaded.prompt_tokens = sum(self.tokens.values())
        loaded.unmetered = [request for request, tokens in self.tokens.items() if not tokens]
        loaded.ids = writer.sorted_ids()
        for request, result in self.failed.items():
            loaded.refusals += self._refusals(request, result)
        for request, error in self.unusable.items():
            loaded.unusable += self._refused(request, error.kind, f"the provider's answer cannot be used: {error}")
        return loaded

    def _line(self, line: bytes, writer: PackWriter) -> None:
        try:
            result = parse_result(line)
        except ValueError:
            return self._odd("not_json", line)
        request = request_number(self.requests.shard, result.custom_id)
        if request is None or request >= len(self.requests):
            return self._odd("foreign_custom_id", line)
        if result.body is None:
            return self._failure(request, result)
        return self._success(request, result.body, line, writer)

    def _success(self, request: int, body: Mapping[str, Any], line: bytes, writer: PackWriter) -> None:
        mark = ids.digest("line", line)
        if request in self.done:
            return self._odd("repeated_line" if self.done[request] == mark else "conflicting_line", line)
        text_ids = self.requests.ids_of(request)
        if not self.tokens.get(request):
            self.tokens[request] = prompt_tokens(body)
        try:
            decoded = vectors_of(body, len(text_ids), self.dimensions)
        except BadDataError as error:
            self.unusable[request] = error
            return self._odd(error.kind, line)
        self.done[request] = mark
        self._bad_rows(text_ids, decoded, line)
        writer.add(text_ids[decoded.good], decoded.vectors[decoded.good])
        return None

    def _bad_rows(self, text_ids: IdArray, decoded: Decoded, line: bytes) -> None:
        if other := int(decoded.other_length.sum()):
            self._odd("wrong_dimensions", line, other)
        bad = text_ids[~(decoded.good | decoded.other_length)]
        if len(bad):
            self._odd("bad_vector", line, len(bad))
        for text in ids.tolist(bad):
            self.loaded.unusable.append(Refusal(text.hex(), "bad_vector", _BAD_VECTOR, inputs=1))

    def _failure(self, request: int, result: ResultLine) -> None:
        if result.ran:
            self.failed[request] = result
        else:
            self._count(result.code)  # never ran: expired, cancelled or unknown; costs no try

    def _refusals(self, request: int, result: ResultLine) -> list[Refusal]:
        """The provider's error for a request, as one for each of its texts. A success of the same request wins."""
        if result.status in (408, 409, 429) or result.status >= 500:
            self._count(result.code)  # the provider's own trouble says nothing of the text
            return []
        return self._refused(request, result.code[:_KEEP_CODE], result.message[:_KEEP_BYTES])

    def _refused(self, request: int, code: str, message: str) -> list[Refusal]:
        if request in self.done:
            return []
        text_ids = ids.tolist(self.requests.ids_of(request))
        return [Refusal(text.hex(), code, message, len(text_ids)) for text in text_ids]

    def _odd(self, kind: str, line: bytes, count: int = 1) -> None:
        self._count(kind, count)
        if kind != "repeated_line" and len(self.loaded.odd_lines) < _KEEP_LINES:
            self.loaded.odd_lines.append(f"{kind}: {line[:_KEEP_BYTES].decode(errors='replace')}")

    def _count(self, kind: str, count: int = 1) -> None:
        anomalies, kind = self.loaded.anomalies, kind[:_KEEP_CODE]
        anomalies[kind if kind in anomalies or len(anomalies) < _KEEP_KINDS else "other"] += count
