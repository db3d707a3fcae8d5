"""Two results over the same rows: which answers changed, what is missing on a side, what each cost. Changes nothing.

Rows are matched by custom_id, whatever their order. Memory holds some sixty bytes a row: digests, not answers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from embedfill import ids
from embedfill.errors import UsageError
from embedfill.ids import IdArray
from embedfill.jobs.content import answer_text
from embedfill.jobs.ordered import Ordered
from embedfill.jobs.output import check_output
from embedfill.jobs.results import METADATA_KEY, RESULTS
from embedfill.jobs.whole import parts_of, whole

CHANGED = pa.schema(
    [("custom_id", pa.string())]
    + [(f"{name}_{side}", pa.string()) for name in ("status", "answer", "model", "template") for side in ("a", "b")]
)
_SIDE = pa.schema([(name, pa.string()) for name in ("custom_id", "status", "answer", "model", "template")])
_READ = ["custom_id", "status", "body", "error_code", "model", "template"]
_SUMS = ["prompt_tokens", "completion_tokens", "cost_usd"]
_HINT = "give a file that `batch run --out` wrote"


@dataclass(slots=True)
class Side:
    """One run's results. `rows` counts those with a custom_id; `models` and `templates` say how many rows each has."""

    path: str
    endpoint: str = ""
    rows: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    models: dict[str, int] = field(default_factory=dict)
    templates: dict[str, int] = field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = 0.0


@dataclass(slots=True)
class Difference:
    """`same` and `changed` rows are on both sides; a change of status is a change, too."""

    a: Side
    b: Side
    same: int = 0
    changed: int = 0
    only_a: int = 0
    only_b: int = 0


def diff(a: Path, b: Path, out: Path | None = None) -> Difference:
    """Compares two files of results, and writes the rows that changed to `out`, in the order of A. Raises UsageError
    for a file that holds no results, and where `out` would overwrite what is not such a comparison."""
    if out is not None:
        check_output(out, [a, b], CHANGED.names)
    sides = [_Reader(path) for path in (a, b)]
    (names_a, answers_a), (names_b, answers_b) = (side.digests() for side in sides)
    order = np.argsort(names_b)
    at, found = ids.find(names_b[order], names_a)
    other = order[at] if len(order) else at
    changed = found.copy()
    changed[found] = answers_a[found] != answers_b[other[found]]
    result = Difference(sides[0].side, sides[1].side)
    result.changed, result.same = int(changed.sum()), int((found & ~changed).sum())
    result.only_a, result.only_b = int((~found).sum()), len(names_b) - int(found.sum())
    if out is not None:
        _write_changed(sides, changed, other, out)
    return result


class _Reader:
    """Streams one file of results; `side` is complete after `digests`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.side = Side(str(path))
        with _said_of(path):
            schema = pq.read_schema(path)
        if missing := {*_READ, *_SUMS} - set(schema.names):
            raise UsageError(f"{path}: has no column {min(missing)!r}", _HINT)
        self.side.endpoint = _endpoint((schema.metadata or {}).get(METADATA_KEY))

    def digests(self) -> tuple[IdArray, IdArray]:
        """Of each row that has a name, the digests of name and answer. A name that stands twice is taken once."""
        names, answers = [ids.array([])], [ids.array([])]
        for table in self._tables([*_READ, *_SUMS]):
            self._sum(table)
            names.append(ids.array(ids.digest("custom_id", name.encode()) for name in table["custom_id"].to_pylist()))
            answers.append(ids.array(_digest(row) for row in zip(*_answers(table))))
        every = np.concatenate(names)
        first = ids.first_of_each(every)
        self.kept = first
        return every[first], np.concatenate(answers)[first]

    def rows(self, mask: NDArray[np.bool_]) -> Iterator[tuple[Any, NDArray[np.int64]]]:
        """The rows of `mask` (over those that `digests` gave) as tables of the schema _SIDE, with their numbers."""
        number = start = 0
        for table in self._tables(_READ):
            kept = self.kept[start : start + table.num_rows]
            start += table.num_rows
            numbers = number + np.arange(int(kept.sum()))
            number += len(numbers)
            chosen = mask[numbers]
            if chosen.any():
                part = table.filter(pa.array(kept)).filter(pa.array(chosen))
                columns = [part["custom_id"], part["status"], pa.array(_answers(part)[1], pa.string())]
                columns += [part["model"], part["template"]]
                yield pa.Table.from_arrays(columns, schema=_SIDE), numbers[chosen]

    def _tables(self, columns: list[str]) -> Iterator[Any]:
        schema = pa.schema([RESULTS.field(name).with_nullable(True) for name in columns])
        with _said_of(self.path):
            file = pq.ParquetFile(self.path, pre_buffer=False)
        with file:
            for number in range(file.num_row_groups):
                with _said_of(self.path):
                    table = file.read_row_group(number, columns=columns, use_threads=False).select(columns).cast(schema)
                yield table.filter(pc.is_valid(table["custom_id"]))

    def _sum(self, table: Any) -> None:  # noqa: ANN401 - pyarrow has no types
        side = self.side
        side.rows += table.num_rows
        for column, counts in (("status", side.statuses), ("model", side.models), ("template", side.templates)):
            for one in pc.value_counts(table[column]).to_pylist():
                if one["values"] is not None:
                    counts[one["values"]] = counts.get(one["values"], 0) + one["counts"]
        side.prompt_tokens += pc.sum(table["prompt_tokens"]).as_py() or 0
        side.completion_tokens += pc.sum(table["completion_tokens"]).as_py() or 0
        unknown = pc.any(pc.and_(pc.equal(table["status"], "ok"), pc.is_null(table["cost_usd"]))).as_py()
        if unknown or side.cost_usd is None:
            side.cost_usd = None
        else:
            side.cost_usd += pc.sum(table["cost_usd"]).as_py() or 0.0


@contextmanager
def _said_of(path: Path) -> Iterator[None]:
    """Puts into words what cannot be read as results."""
    try:
        yield
    except (OSError, ValueError, NotImplementedError, pa.ArrowException) as error:
        raise UsageError(f"{path}: {str(error).partition(chr(10))[0]}", _HINT) from None


def _endpoint(metadata: bytes | None) -> str:
    """What the file says of itself, if it is ours."""
    try:
        value = orjson.loads(metadata or b"{}")
    except orjson.JSONDecodeError:
        return ""
    return str(value.get("endpoint", "")) if isinstance(value, dict) else ""


def _answers(table: Any) -> tuple[list[str | None], list[str | None]]:  # noqa: ANN401
    """Of each row its status, and what it says: the answer's content, or the error's code."""
    statuses, bodies = table["status"].to_pylist(), table["body"].to_pylist()
    codes = table["error_code"].to_pylist()
    said = [answer_text(body) if state == "ok" else code for state, body, code in zip(statuses, bodies, codes)]
    return statuses, said


def _digest(row: tuple[str | None, str | None]) -> bytes:
    return ids.digest("answer", (row[0] or "").encode(), (row[1] or "").encode())


def _write_changed(sides: list[_Reader], changed: NDArray[np.bool_], other: NDArray[np.int64], out: Path) -> None:
    """The changed rows of both sides, joined in the order of A; on disk meanwhile, beside `out`."""
    count = int(changed.sum())
    place_a = np.cumsum(changed) - 1
    places_b = np.full(sides[1].kept.sum(), -1, np.int64)
    places_b[other[changed]] = np.arange(count)
    masks, places = (changed, places_b >= 0), (place_a, places_b)
    size = sides[0].path.stat().st_size * 4
    try:
        with (
            whole(out) as temp,
            Ordered(parts_of(temp) / "a", _SIDE, count, size) as one,
            Ordered(parts_of(temp) / "b", _SIDE, count, size) as two,
            pq.ParquetWriter(temp, CHANGED, compression="zstd") as writer,
        ):
            for side, mask, place, ordered in zip(sides, masks, places, (one, two)):
                for table, numbers in side.rows(mask):
                    ordered.add(table, place[numbers])
            for (_, _, left), (_, _, right) in zip(one.partitions(), two.partitions()):
                columns = [left["custom_id"]]
                columns += [part[name] for name in _SIDE.names[1:] for part in (left, right)]
                writer.write_table(pa.Table.from_arrays(columns, schema=CHANGED))
    except OSError as error:
        raise UsageError(f"{out}: {error.strerror or error}", "give another --out") from None
