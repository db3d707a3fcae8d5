"""The results of a job as one Parquet file: a row for each row of the input, in its order. Submits nothing.

A request that stands in the input twice is sent once: both rows have its answer, and the later one has cost nothing.

    status          ok (answered), failed (the provider refused it), rejected (no request at all), pending (no answer yet)
    body            the answer as JSON, also that of a refusal
    template        the prompt template's version, where there is one

The file appears when it is whole. Its metadata (key `embedfill`) names endpoint, template and how tokens were counted.
"""

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from embedfill import __version__, ids
from embedfill.errors import UsageError
from embedfill.jobs.answers import ANSWERS, read_answers
from embedfill.jobs.ordered import Ordered
from embedfill.jobs.prompt import Prompt
from embedfill.jobs.spool import Spool
from embedfill.jobs.whole import whole
from embedfill.tracker.plan import refused_in
from embedfill.tracker.state import State

RESULTS = pa.schema(
    [
        pa.field("custom_id", pa.string()),
        pa.field("status", pa.string(), False),
        *(ANSWERS.field(name) for name in ANSWERS.names if name != "row_id"),
        pa.field("template", pa.string()),
        pa.field("source_file", pa.string(), False),
        pa.field("source_row", pa.int64(), False),
    ]
)
METADATA_KEY = b"embedfill"
_DICTIONARIES = ["status", "model", "batch_id", "template", "source_file", "error_code"]
_REASON = ["error_code", "error_message", "source_file", "source_row"]
_COSTS = ["prompt_tokens", "completion_tokens", "cost_usd"]
_KINDS = 50  # of reasons, at most
_OK, _FAILED, _REJECTED, _PENDING = "ok", "failed", "rejected", "pending"


@dataclass(slots=True)
class Reason:
    """Why `rows` rows have no answer: the words and the place of the first."""

    rows: int
    message: str
    first: str


@dataclass(slots=True)
class Totals:
    """What the results come to. Costs are those of the rows that are there, whenever they were paid; `reasons` say by
    code why rows have no answer."""

    rows: int = 0
    statuses: dict[str, int] = field(default_factory=lambda: dict.fromkeys((_OK, _FAILED, _REJECTED, _PENDING), 0))
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = 0.0
    reasons: dict[str, Reason] = field(default_factory=dict)

    def add(self, table: Any) -> None:  # noqa: ANN401 - pyarrow has no types
        self.rows += table.num_rows
        for count in pc.value_counts(table.column("status")).to_pylist():
            self.statuses[count["values"]] += count["counts"]
        self.prompt_tokens += pc.sum(table.column("prompt_tokens")).as_py() or 0
        self.completion_tokens += pc.sum(table.column("completion_tokens")).as_py() or 0
        unknown = pc.any(pc.and_(pc.equal(table.column("status"), _OK), pc.is_null(table.column("cost_usd")))).as_py()
        if unknown or self.cost_usd is None:
            self.cost_usd = None
        else:
            self.cost_usd += pc.sum(table.column("cost_usd")).as_py() or 0.0
        bad = table.filter(pc.is_valid(table.column("error_code")))
        for row in bad.select(_REASON).to_pylist():
            self._blame(*row.values())

    def _blame(self, code: str, message: str | None, file: str, row: int) -> None:
        kind = code if code in self.reasons or len(self.reasons) < _KINDS else "other"
        self.reasons.setdefault(kind, Reason(0, message or "", f"{file} row {row}")).rows += 1


def write_results(spool: Spool, state: State, out: Path, max_attempts: int, prompt: Prompt | None) -> Totals:
    """Joins the input's rows with their answers. Raises UsageError where `out` cannot be written."""
    totals = Totals()
    folder = state.cache.scratch("jobs", f"{os.getpid()}-{secrets.token_hex(4)}")
    schema = RESULTS.with_metadata({METADATA_KEY: orjson.dumps(_metadata(spool, prompt))})
    try:
        with (
            whole(out) as temp,
            pq.ParquetWriter(temp, schema, compression="zstd", use_dictionary=_DICTIONARIES) as writer,
        ):
            for table in _joined(spool, state, folder, max_attempts, prompt.version if prompt else None):
                totals.add(table)
                writer.write_table(table)
    except OSError as error:
        raise UsageError(f"{out}: {error.strerror or error}", "give another --out") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return totals


def _metadata(spool: Spool, prompt: Prompt | None) -> Mapping[str, Any]:
    return {
        "version": __version__,
        "endpoint": spool.endpoint,
        "models": spool.models,
        "tokens": spool.counted,
        "template": {"version": prompt.version, **prompt.content} if prompt else None,
    }


def _joined(spool: Spool, state: State, folder: Path, max_attempts: int, template: str | None) -> Iterator[Any]:
    """Tables of the schema RESULTS, in the order of the input."""
    rejected = ids.array(sorted(refused_in(state, max_attempts).rejected))
    order = np.flatnonzero(spool.model >= 0)
    order = order[np.argsort(spool.row_ids[order])]
    row_ids = spool.row_ids[order]
    packs = [state.cache.path(key) for key in state.packs()]
    size = sum(pq.read_metadata(path).num_rows and _bytes(path) for path in packs)
    with Ordered(folder, ANSWERS, len(spool), size) as ordered:
        for path in packs:
            for table in read_answers(path):
                answer, at = _places(row_ids, ids.from_arrow(table.column("row_id")))
                if len(answer):
                    ordered.add(table.take(pa.array(answer)), order[at])
        rows = _Rows(spool)
        for start, end, answers in ordered.partitions():
            yield from _partition(rows, start, end, _best(answers), rejected, template)


def _places(row_ids: ids.IdArray, answered: ids.IdArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of an answer's number and a place in the sorted `row_ids`, where an id may stand more than once."""
    first = np.searchsorted(row_ids, answered, side="left")
    counts = np.searchsorted(row_ids, answered, side="right") - first
    answer = np.repeat(np.arange(len(answered)), counts)
    nth = np.arange(len(answer)) - np.repeat(np.cumsum(counts) - counts, counts)
    return answer, first[answer] + nth


def _bytes(path: Path) -> int:
    meta = pq.read_metadata(path)
    return sum(meta.row_group(number).total_byte_size for number in range(meta.num_row_groups))


def _best(answers: Any) -> Any:  # noqa: ANN401
    """One answer for each position, of a table sorted by it: a success before a refusal, of two the first."""
    positions = answers.column("position").to_numpy()
    failed = pc.is_valid(answers.column("error_code")).to_numpy()
    order = np.lexsort((failed, positions))
    first = np.ones(len(order), bool)
    first[1:] = positions[order][1:] != positions[order][:-1]
    return answers.take(pa.array(order[first]))


class _Rows:
    """The spool's rows by position, read once from the first to the last."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self._batches = spool.batches()
        self._held: Any = None
        self._start = 0

    def upto(self, end: int) -> Iterator[tuple[int, Any]]:
        """The rows that have not been given yet, up to position `end`, each table with its first position."""
        while self._start < end:
            if self._held is None or not self._held.num_rows:
                self._held = next(self._batches)
            table = self._held.slice(0, end - self._start)
            yield self._start, table
            self._held = self._held.slice(table.num_rows)
            self._start += table.num_rows


def _partition(
    rows: _Rows,
    start: int,
    end: int,
    answers: Any,  # noqa: ANN401
    rejected: ids.IdArray,
    template: str | None,
) -> Iterator[Any]:
    at = np.full(end - start, -1, np.int64)
    at[answers.column("position").to_numpy() - start] = np.arange(answers.num_rows)
    for first, table in rows.upto(end):
        again = ~rows.spool.kept[first : first + table.num_rows]
        places = at[first - start : first - start + table.num_rows]
        yield _free(_result(table, answers, places, rejected, template), again)


def _free(table: Any, again: NDArray[np.bool_]) -> Any:  # noqa: ANN401
    """With no tokens and no cost in the rows that repeat earlier ones."""
    for name in _COSTS if again.any() else ():
        column = table.column(name)
        mask = pc.and_(pa.array(again), pc.not_equal(table.column("status"), _PENDING))
        values = pc.if_else(mask, pa.scalar(0, column.type), column)
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), values)
    return table


def _result(table: Any, answers: Any, places: NDArray[np.int64], rejected: ids.IdArray, template: str | None) -> Any:  # noqa: ANN401
    taken = answers.take(pa.array(places, mask=places < 0))
    status = _statuses(table, taken, rejected)
    shown = pa.array(status != _PENDING)  # a refusal that is forgiven, or may be tried again, is not shown

    def column(name: str) -> Any:  # noqa: ANN401
        return pc.if_else(shown, taken.column(name).combine_chunks(), None)

    columns = {name: column(name) for name in ANSWERS.names if name != "row_id"}
    for name in ("error_code", "error_message", "model"):
        columns[name] = pc.coalesce(columns[name], table.column(name).combine_chunks())
    for name in ("custom_id", "source_file", "source_row"):
        columns[name] = table.column(name)
    columns["status"] = pa.array(status.tolist(), pa.string())
    columns["template"] = pa.array([template] * table.num_rows, pa.string())
    return pa.Table.from_arrays([columns[name] for name in RESULTS.names], schema=RESULTS)


def _statuses(table: Any, taken: Any, rejected: ids.IdArray) -> NDArray[np.str_]:  # noqa: ANN401
    """Whether each row has its answer. A refusal stands only as long as the request is not to go out again."""
    bad = pc.is_valid(table.column("error_code")).to_numpy()
    there = pc.is_valid(taken.column("row_id")).to_numpy()
    ok = there & pc.is_null(taken.column("error_code")).to_numpy()
    _, refused = ids.find(rejected, ids.from_arrow(table.column("row_id")))
    return np.select([bad, ok, refused & there], [_REJECTED, _OK, _FAILED], _PENDING)
