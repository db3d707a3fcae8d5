"""The requests of a job as one table in the scratch space, read once from its input. Finds duplicate names.

Memory holds some forty bytes a row: ids and counts. The bodies are on disk, so that the input may change meanwhile.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from embedfill import ids
from embedfill.errors import UsageError
from embedfill.ids import IdArray
from embedfill.jobs.endpoints import ENDPOINTS, UNKNOWN, Measured
from embedfill.jobs.request import Request
from embedfill.jobs.tokens import Counter
from embedfill.records import Rejection, Source
from embedfill.tracker.plan import WANTED

SPOOL = pa.schema(
    [
        pa.field("custom_id", pa.string()),
        pa.field("row_id", ids.ID_TYPE, False),
        pa.field("body", pa.string()),
        pa.field("model", pa.string()),
        pa.field("tokens", pa.int32(), False),
        pa.field("source_file", pa.string(), False),
        pa.field("source_row", pa.int64(), False),
        pa.field("error_code", pa.string()),
        pa.field("error_message", pa.string()),
    ]
)
NO_ID = b"\0" * ids.ID_BYTES  # the row id of what is no request
_BATCH_ROWS = 1024
_BATCH_BYTES = 16 << 20
_LARGEST = 2**31 - 1


@dataclass(slots=True)
class Spool:
    """A job's rows in the order of its input; arrays have an item for each. `model` is a number in `models`, -1 for a
    rejection; `output` the most tokens that it may generate; `media` how much of it has tokens that are not counted, but
    for what is assumed of them; `kept` is False for a repetition of an earlier row."""

    path: Path
    endpoint: str
    row_ids: IdArray = field(default_factory=lambda: ids.array([]))
    tokens: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    output: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    media: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    model: NDArray[np.int16] = field(default_factory=lambda: np.zeros(0, np.int16))
    kept: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    models: list[str] = field(default_factory=list)
    inputs: int = 1  # of a request, at most
    answer_bytes: int = 0  # of a request, at most, where that is known
    counted: dict[str, str] = field(default_factory=dict)  # model -> how its tokens were counted

    def __len__(self) -> int:
        return len(self.row_ids)

    @property
    def asked(self) -> NDArray[np.bool_]:
        """Rows that are requests."""
        return self.kept & (self.model >= 0)

    def batches(self) -> Iterator[Any]:
        """All rows, in order, as tables of the schema SPOOL."""
        with pq.ParquetFile(self.path, pre_buffer=False) as file:
            for number in range(file.num_row_groups):
                yield file.read_row_group(number, use_threads=False)

    def wanted(self, model: int) -> Iterator[Any]:
        """The requests of one model, as the planner takes them."""
        start = 0
        mine = self.kept & (self.model == model)
        for table in self.batches():
            mask = mine[start : start + table.num_rows]
            start += table.num_rows
            if mask.any():
                part = table.select(["row_id", "body", "tokens"]).filter(pa.array(mask)).combine_chunks()
                yield pa.RecordBatch.from_arrays([column.chunk(0) for column in part.columns], schema=WANTED)

    def source(self, position: int) -> Source:
        """Where a row comes from."""
        for table in self.batches():
            if position < table.num_rows:
                row = table.select(["source_file", "source_row"]).slice(position, 1).to_pylist()[0]
                return Source(row["source_file"], row["source_row"])
            position -= table.num_rows
        raise IndexError(position)


class SpoolWriter:
    """Takes requests and rejections in order, and gives the spool of them. `media_tokens` is what an image, a recording
    or a file is taken to have."""

    def __init__(self, path: Path, endpoint: str, media_tokens: int = 0) -> None:
        self.spool = Spool(path, endpoint)
        self.media_tokens = media_tokens
        self._counter = Counter(endpoint)
        self._measure = ENDPOINTS[endpoint].measure
        self._numbers: dict[str, int] = {}
        self._names: list[IdArray] = []
        self._arrays: list[tuple[IdArray, Any, Any, Any, Any]] = []

    def write(self, sources: Iterable[tuple[Path, Iterable[Request | Rejection]]]) -> Spool:
        """Raises UsageError for two different requests of one name."""
        with pq.ParquetWriter(self.spool.path, SPOOL, compression="zstd", use_dictionary=["model"]) as writer:
            for file, items in sources:
                for part in _parts(items):
                    writer.write_table(self._part(str(file), part))
        spool = self.spool
        if self._arrays:
            found = [np.concatenate(column) for column in zip(*self._arrays)]
            spool.row_ids, spool.tokens, spool.output, spool.media, spool.model = found
        spool.models, spool.counted = list(self._numbers), self._counter.how
        spool.kept = self._first_of_name()
        return spool

    def _part(self, file: str, items: list[Request | Rejection]) -> Any:  # noqa: ANN401
        requests = [item for item in items if isinstance(item, Request)]
        measured = [self._measure(request.body) for request in requests]
        at = np.array([isinstance(item, Request) for item in items], bool)
        tokens, output, media = (np.zeros(len(items), np.int32) for _ in range(3))
        tokens[at], output[at] = self._tokens(requests, measured), [_capped(one.output_tokens) for one in measured]
        media[at] = [one.media for one in measured]
        numbers = np.full(len(items), -1, np.int16)
        numbers[at] = [self._numbers.setdefault(request.model, len(self._numbers)) for request in requests]
        for one in measured:
            self.spool.inputs = max(self.spool.inputs, one.inputs)
            self.spool.answer_bytes = max(self.spool.answer_bytes, one.answer_bytes)
        row_ids = ids.array(self._row_id(item) for item in items)
        self._names.append(ids.array(_name_id(item) for item in items))
        self._arrays.append((row_ids, tokens, output, media, numbers))
        return pa.Table.from_arrays([*_columns(file, items, row_ids, tokens)], schema=SPOOL)

    def _row_id(self, item: Request | Rejection) -> bytes:
        """The identity of a request: endpoint, name and body. A changed body is another request."""
        if isinstance(item, Rejection):
            return NO_ID
        return ids.digest("request", self.spool.endpoint.encode(), item.custom_id.encode(), item.text.encode())

    def _tokens(self, requests: list[Request], measured: list[Measured]) -> NDArray[np.int64]:
        found = np.array([one.media * self.media_tokens for one in measured], np.int64)
        models = np.array([request.model for request in requests], object)
        for model in dict.fromkeys(models.tolist()):
            mine = np.flatnonzero(models == model)
            found[mine] += self._counter.count(model, [measured[at] for at in mine.tolist()])
        return np.minimum(found, _LARGEST)

    def _first_of_name(self) -> NDArray[np.bool_]:
        """True where a row is not a repetition. Of one name there may be one request only, however often."""
        spool, kept = self.spool, np.ones(len(self.spool), bool)
        asked = np.flatnonzero(spool.model >= 0)
        names = np.concatenate([ids.array([]), *self._names])[asked]
        order = np.argsort(names, kind="stable")
        same = np.flatnonzero(names[order][1:] == names[order][:-1]) + 1
        later, earlier = asked[order[same]], asked[order[same - 1]]
        other = np.flatnonzero(spool.row_ids[later] != spool.row_ids[earlier])
        if len(other):
            first = other[np.argmin(later[other])]
            raise self._conflict(int(earlier[first]), int(later[first]))
        kept[later] = False
        return kept

    def _conflict(self, earlier: int, later: int) -> UsageError:
        one, two = self.spool.source(earlier), self.spool.source(later)
        return UsageError(
            f"two different requests have one custom_id: {one.file} row {one.row} and {two.file} row {two.row}",
            "give each request a name of its own: its answer could not be told from the other's",
        )


def _capped(tokens: int) -> int:
    return UNKNOWN if tokens == UNKNOWN else min(tokens, _LARGEST)


def _name_id(item: Request | Rejection) -> bytes:
    return ids.digest("custom_id", item.custom_id.encode()) if isinstance(item, Request) else NO_ID


def _columns(file: str, items: list[Request | Rejection], row_ids: IdArray, tokens: NDArray[np.int32]) -> Iterator[Any]:
    yield pa.array([item.custom_id if isinstance(item, Request) else item.document_id for item in items], pa.string())
    yield ids.to_arrow(row_ids)
    yield pa.array([item.text if isinstance(item, Request) else None for item in items], pa.string())
    yield pa.array([item.model if isinstance(item, Request) else None for item in items], pa.string())
    yield pa.array(tokens)
    yield pa.array([file] * len(items), pa.string())
    rows = [item.row if isinstance(item, Request) else item.source.row if item.source else 0 for item in items]
    yield pa.array(rows, pa.int64())
    yield pa.array([item.code if isinstance(item, Rejection) else None for item in items], pa.string())
    yield pa.array([item.message if isinstance(item, Rejection) else None for item in items], pa.string())


def _parts(items: Iterable[Request | Rejection]) -> Iterator[list[Request | Rejection]]:
    """Lists of some thousand items, of fewer where bodies are long."""
    part: list[Request | Rejection] = []
    size = 0
    for item in items:
        part.append(item)
        size += len(item.text) if isinstance(item, Request) else 0
        if len(part) >= _BATCH_ROWS or size >= _BATCH_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part
