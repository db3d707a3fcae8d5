"""Rows that come in any order, given back in the order of their positions, with bounded memory.

Rows are laid into partitions on disk by position, as they come; then one partition at a time is sorted.
"""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Positions = NDArray[np.int64]
_PARTITION_BYTES = 8 << 20
_MOST = 500  # partitions: each is an open file


class Ordered:
    """Takes tables of `schema` with a position for each row, of `count` positions. `size` is about how many bytes all
    rows have. Its files lie in `folder`, which must be its own."""

    def __init__(self, folder: Path, schema: Any, count: int, size: int) -> None:  # noqa: ANN401 - pyarrow has no types
        folder.mkdir(parents=True, exist_ok=True)
        partitions = max(1, min(_MOST, size // _PARTITION_BYTES, count))
        self.folder = folder
        self.schema = schema.append(pa.field("position", pa.int64(), False))
        self.edges = np.linspace(0, count, partitions + 1).astype(np.int64)
        self._writers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        for number in range(len(self.edges) - 1):
            self._path(number).unlink(missing_ok=True)

    def add(self, table: Any, positions: Positions) -> None:  # noqa: ANN401
        """The rows of a table, each at its position. More than one row may have the same."""
        table = table.append_column(self.schema.field("position"), pa.array(positions)).cast(self.schema)
        numbers = np.searchsorted(self.edges, positions, side="right") - 1
        for number in np.unique(numbers).tolist():
            mine = numbers == number
            self._writer(number).write_table(table if mine.all() else table.filter(pa.array(mine)))

    def partitions(self) -> Iterator[tuple[int, int, Any]]:
        """(first position, end, table) of each partition in order; rows sorted by position, those of one position in
        the order in which they came."""
        self._close()
        for number, (start, end) in enumerate(zip(self.edges[:-1].tolist(), self.edges[1:].tolist())):
            if not self._path(number).exists():
                yield start, end, self.schema.empty_table()
                continue
            with pa.memory_map(str(self._path(number))) as file:
                table = pa.ipc.open_stream(file).read_all()
                order = np.argsort(table.column("position").to_numpy(), kind="stable")
                yield start, end, table.take(pa.array(order))

    def _path(self, number: int) -> Path:
        return self.folder / f"{number}.arrows"

    def _writer(self, number: int) -> Any:  # noqa: ANN401
        if number not in self._writers:
            self._writers[number] = pa.ipc.new_stream(str(self._path(number)), self.schema)
        return self._writers[number]

    def _close(self) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers = {}
