"""Result packs of a job: one row for each answered request, in Parquet. Decides nothing about them."""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import pyarrow as pa
import pyarrow.parquet as pq

from embedfill import ids

ANSWERS = pa.schema(
    [
        pa.field("row_id", ids.ID_TYPE, False),
        pa.field("status_code", pa.int32()),
        pa.field("body", pa.string()),
        pa.field("error_code", pa.string()),
        pa.field("error_message", pa.string()),
        pa.field("prompt_tokens", pa.int64()),
        pa.field("completion_tokens", pa.int64()),
        pa.field("cost_usd", pa.float64()),
        pa.field("model", pa.string()),
        pa.field("batch_id", pa.string()),
    ]
)
_ROWS = 1024
_BYTES = 16 << 20


class Answer(NamedTuple):
    """What came back for a request: `body` is the answer's JSON; a refused one has the provider's code and words."""

    row_id: bytes
    status_code: int | None
    body: str | None
    error_code: str | None
    error_message: str | None
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float | None
    model: str
    batch_id: str

    @property
    def ok(self) -> bool:
        return self.error_code is None


class AnswerWriter:
    """Streams answers into one Parquet file."""

    def __init__(self, path: Path) -> None:
        self._writer = pq.ParquetWriter(path, ANSWERS, compression="zstd", use_dictionary=["model", "batch_id"])
        self._held: list[Answer] = []
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._writer.close()

    def add(self, answer: Answer) -> None:
        self._held.append(answer)
        self._size += len(answer.body or "")
        if len(self._held) >= _ROWS or self._size >= _BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._held:
            arrays = [pa.array(column, kind.type) for column, kind in zip(zip(*self._held), ANSWERS, strict=True)]
            self._writer.write_table(pa.Table.from_arrays(arrays, schema=ANSWERS))
        self._held, self._size = [], 0


def read_answers(path: Path) -> Iterator[Any]:
    """Streams a pack by row group, as tables of the schema ANSWERS."""
    with pq.ParquetFile(path, pre_buffer=False) as file:
        for number in range(file.num_row_groups):
            yield file.read_row_group(number, use_threads=False)
