"""The output and error file of one ended batch, against its shard, to a pack and the provider's refusals.

Lines may come in any order. A request counts once: of equal lines the first is used, of different ones the first
success; the others are kept for inspection. Whatever is missing or unusable is simply not in the pack.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from embedfill import ids
from embedfill.batchapi.lines import ResultLine, lines_of, parse_result, request_number
from embedfill.ids import IdArray
from embedfill.loader.decode import BadDataError, prompt_tokens, vectors_of
from embedfill.loader.packs import PackWriter
from embedfill.records import Refusal

_KEEP_LINES = 20  # odd lines kept for inspection, at most
_KEEP_BYTES = 2_000


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
    """What a batch brought. `anomalies` counts what was odd, by kind; `odd_lines` are the first of them."""

    vectors: int = 0
    prompt_tokens: int = 0
    ids: bytes = b""
    refusals: list[Refusal] = field(default_factory=list)
    anomalies: Counter[str] = field(default_factory=Counter)
    odd_lines: list[str] = field(default_factory=list)


def load_batch(requests: Requests, files: list[Path], dimensions: int, pack: Path) -> Loaded:
    """Reads the files of an ended batch (output first, then error) and writes the pack of their vectors to `pack`."""
    return _Loading(requests, dimensions).run(files, pack)


class _Loading:
    def __init__(self, requests: Requests, dimensions: int) -> None:
        self.requests = requests
        self.dimensions = dimensions
        self.done: dict[int, int] = {}  # request -> hash of the line that was used
        self.failed: dict[int, ResultLine] = {}
        self.loaded = Loaded()

    def run(self, files: list[Path], pack: Path) -> Loaded:
        with PackWriter(pack, self.dimensions) as writer:
            for file in files:
                for line in lines_of(file):
                    self._line(line, writer)
        self.loaded.vectors = writer.rows
        self.loaded.ids = writer.sorted_ids()
        self.loaded.refusals = list(self._refusals())
        return self.loaded

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
        return self._success(request, result, line, writer)

    def _success(self, request: int, result: ResultLine, line: bytes, writer: PackWriter) -> None:
        mark = hash(line)
        if request in self.done:
            return self._odd("repeated_line" if self.done[request] == mark else "conflicting_line", line)
        text_ids = self.requests.ids_of(request)
        assert result.body is not None
        self.loaded.prompt_tokens += prompt_tokens(result.body)
        try:
            vectors = vectors_of(result.body, len(text_ids), self.dimensions)
        except BadDataError as error:
            return self._odd(error.kind, line)
        self.done[request] = mark
        good = ~np.isnan(vectors[:, 0])
        if not good.all():
            self._odd("bad_vector", line, int((~good).sum()))
        writer.add(text_ids[good], vectors[good])
        return None

    def _failure(self, request: int, result: ResultLine) -> None:
        if result.ran:
            self.failed[request] = result
        else:
            self.loaded.anomalies[result.code] += 1  # never ran: expired, cancelled or unknown; costs no try

    def _refusals(self) -> Iterator[Refusal]:
        """The provider's error for a request, as one for each of its texts. A success of the same request wins."""
        for request, result in self.failed.items():
            if request in self.done:
                continue
            text_ids = ids.tolist(self.requests.ids_of(request))
            if result.status in (408, 409, 429) or result.status >= 500:
                self.loaded.anomalies[result.code] += 1  # the provider's own trouble says nothing of the text
                continue
            for text in text_ids:
                yield Refusal(text.hex(), result.code, result.message[:_KEEP_BYTES], alone=len(text_ids) == 1)

    def _odd(self, kind: str, line: bytes, count: int = 1) -> None:
        self.loaded.anomalies[kind] += count
        if kind != "repeated_line" and len(self.loaded.odd_lines) < _KEEP_LINES:
            self.loaded.odd_lines.append(f"{kind}: {line[:_KEEP_BYTES].decode(errors='replace')}")
