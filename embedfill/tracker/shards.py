"""Shards: texts packed into requests and batch files within every limit, kept as Parquet. Submits nothing."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from embedfill import ids
from embedfill.batchapi.limits import Limits
from embedfill.batchapi.lines import custom_id
from embedfill.ids import IdArray
from embedfill.records import Shard
from embedfill.store import layout

SHARD_SCHEMA = pa.schema(
    [
        pa.field("request", pa.int32(), False),
        pa.field("text_id", ids.ID_TYPE, False),
        pa.field("text", pa.string(), False),
        pa.field("tokens", pa.int32(), False),
    ]
)
_LINE_BYTES = 180  # of a request line around its inputs and the model's name, at most
_OUTPUT_ITEM_BYTES = 60  # of a result line around one embedding
_OUTPUT_LINE_BYTES = 600  # of a result line around its embeddings: ids, the model, usage
_FLOAT_CHARS = 22  # of one JSON float, at most
_ROW_GROUP = 4096


@dataclass(frozen=True, slots=True)
class Packing:
    """How full requests and shards may get. `shard_tokens` is a quarter of the quota where there is one; the `model`'s
    name and `options`, as JSON, stand in every request."""

    limits: Limits
    dimensions: int
    encoding: str
    inputs_per_request: int
    max_inputs: int
    shard_tokens: int | None
    model: str = ""
    options: str = ""

    @property
    def line_bytes(self) -> int:
        """Bytes of a request line around its inputs, at most."""
        return _LINE_BYTES + len(orjson.dumps(self.model)) + len(self.options.encode())

    @property
    def inputs(self) -> int:
        """Inputs of a shard: within the batch limit, and an output that can still be downloaded in one piece."""
        by_output = self.limits.output_bytes // self.output_item_bytes
        return max(1, min(self.max_inputs, self.limits.batch_inputs, by_output))

    @property
    def output_item_bytes(self) -> int:
        """Bytes of an output file for one input, at most."""
        vector = 4 * math.ceil(self.dimensions * 4 / 3) if self.encoding == "base64" else self.dimensions * _FLOAT_CHARS
        return vector + _OUTPUT_ITEM_BYTES

    def output_bytes(self, inputs: int, requests: int) -> int:
        """Bytes of a batch's output file, at most."""
        return inputs * self.output_item_bytes + requests * _OUTPUT_LINE_BYTES

    @property
    def request_inputs(self) -> int:
        return max(1, min(self.inputs_per_request, self.limits.request_inputs))


@dataclass(slots=True)
class Packed:
    """The texts of one shard, in order: (request, text id, text, tokens). Sizes are those of its batch file."""

    rows: list[tuple[int, bytes, str, int]] = field(default_factory=list)
    requests: int = 0
    tokens: int = 0
    file_bytes: int = 0


class Packer:
    """Takes texts in order, gives shards when they are full. Greedy: a text goes into the open request, else into a
    new one, else into a new shard."""

    def __init__(self, packing: Packing) -> None:
        self.packing = packing
        self._open = Packed()
        self._inputs = self._tokens = 0  # of the open request
        self._most: int | None = None
        self._room = 0  # inputs that the open request may hold

    def add(self, text_id: bytes, text: str, tokens: int, most: int | None) -> Packed | None:
        """Adds one text; returns the shard that it no longer fitted into. `most` is how many inputs its request may
        hold, with none of another number among them; None where nothing is held against it."""
        size = len(orjson.dumps(text)) + 1
        full = self.finish() if self._open.rows and not self._fits_shard(tokens, size) else None
        shard = self._open
        if most != self._most or not shard.requests or not self._fits_request(tokens):
            shard.requests += 1
            shard.file_bytes += self.packing.line_bytes
            self._inputs = self._tokens = 0
            self._most, room = most, self.packing.request_inputs
            self._room = room if most is None else min(most, room)
        self._inputs += 1
        self._tokens += tokens
        shard.rows.append((shard.requests - 1, text_id, text, tokens))
        shard.tokens += tokens
        shard.file_bytes += size
        return full

    def finish(self) -> Packed:
        """The open shard (it may have no rows); a new one begins."""
        packed, self._open = self._open, Packed()
        return packed

    def _fits_request(self, tokens: int) -> bool:
        limit = self.packing.limits.request_tokens
        return self._inputs < self._room and self._tokens + tokens <= limit

    def _fits_shard(self, tokens: int, size: int) -> bool:
        shard, packing = self._open, self.packing
        return (
            len(shard.rows) < packing.inputs
            and shard.requests < packing.limits.batch_requests
            and shard.file_bytes + size + packing.line_bytes <= packing.limits.file_bytes
            and (packing.shard_tokens is None or shard.tokens + tokens <= packing.shard_tokens)
        )


def write_shard(packed: Packed, path: Path) -> None:
    """A shard's rows as Parquet at `path`."""
    arrays = [pa.array(column, kind.type) for column, kind in zip(zip(*packed.rows), SHARD_SCHEMA, strict=True)]
    table = pa.Table.from_arrays(arrays, schema=SHARD_SCHEMA)
    pq.write_table(table, path, row_group_size=_ROW_GROUP, compression="zstd", use_dictionary=False)


def shard_record(packed: Packed, space: str, plan: int) -> Shard:
    """The record of a shard: its id covers the space, the plan's number and every row."""
    numbers = np.array([row[0] for row in packed.rows], np.int32).tobytes()
    text_ids = b"".join(row[1] for row in packed.rows)
    shard_id = ids.digest_hex("shard", space.encode(), plan.to_bytes(8, "little"), numbers, text_ids)
    return Shard(
        id=shard_id,
        key=layout.shard(space, shard_id),
        requests=packed.requests,
        texts=len(packed.rows),
        tokens=packed.tokens,
        file_bytes=packed.file_bytes,
    )


def shard_ids(path: Path) -> tuple[IdArray, NDArray[np.int32]]:
    """Text ids of a shard and the request number of each, in order."""
    table = pq.read_table(path, columns=["request", "text_id"])
    return ids.from_arrow(table.column("text_id")), table.column("request").to_numpy()


def request_tokens(path: Path, requests: int) -> NDArray[np.int64]:
    """Our own count of the prompt tokens of each request of a shard, shape (requests,)."""
    table = pq.read_table(path, columns=["request", "tokens"])
    found = np.zeros(requests, np.int64)
    np.add.at(found, table.column("request").to_numpy(), table.column("tokens").to_numpy())
    return found


# (custom_id, the texts of one request) -> its line of the batch file
Line = Callable[[str, list[str]], bytes]


def write_batch_file(path: Path, out: Path, shard: str, line: Line) -> None:
    """The JSONL batch file of a shard, streaming; it appears at `out` when it is whole."""
    temp = out.with_name(out.name + ".part")
    try:
        with temp.open("wb", buffering=1 << 20) as file:
            for request, texts in _requests(path):
                file.write(line(custom_id(shard, request), texts))
        temp.replace(out)
    finally:
        temp.unlink(missing_ok=True)


def _requests(path: Path) -> Iterator[tuple[int, list[str]]]:
    current, texts = -1, list[str]()
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_ROW_GROUP, columns=["request", "text"]):
            for request, text in zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True):
                if request != current and texts:
                    yield current, texts
                    texts = []
                current = request
                texts.append(text)
    if texts:
        yield current, texts
