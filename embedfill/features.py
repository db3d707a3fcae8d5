"""What an endpoint of the Batch API may or may not have: the requests that show it, what their results say, and the
settings that follow. Sends nothing; `embedfill.probe` does."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from embedfill.batchapi.lines import EmbeddingsRequest
from embedfill.config import Config
from embedfill.loader.decode import BadDataError, prompt_tokens, vectors_of
from embedfill.models.known import KNOWN, ModelInfo
from embedfill.providers.profiles import patience_of, profile_of

Settings = dict[str, dict[str, str | int | float | bool]]
# Every key that may follow from a probe, with a value of its kind.
POSSIBLE: Settings = {
    "embedding": {"encoding_format": "float", "send_dimensions": False, "dimensions": 1},
    "batch": {"inputs_per_request": 1, "endpoint": "/v1/embeddings", "listing_delay_s": 1.0},
}
TEXT = "a probe"
_SEPARATORS = "lines\u2028that\u2029are\u0085one"  # legal inside a JSON string, and ends of lines to some readers
_SHORTER = 64  # numbers in a vector, asked for where nothing is known of a model
_KINDS = {"base64": "base64", "float": "floats"}  # encoding -> its feature
_LATE = 4  # times as long as a batch was seen to be missing from the listing


@dataclass(frozen=True, slots=True)
class Features:
    """What was seen. None: not seen either way. `endpoint` is how batches name it; `vector_length` the numbers in a
    vector when none are asked for; `line_separators`: a text with U+2028 and its like came through."""

    endpoint: str
    vector_length: int | None = None
    base64: bool | None = None
    floats: bool | None = None
    dimensions: bool | None = None
    inputs_per_request: int = 1
    line_separators: bool | None = None
    usage: bool | None = None
    batch_usage: bool | None = None
    listing: bool | None = None
    listed_after_s: float | None = None
    metadata: bool | None = None
    file_listing: bool | None = None
    file_deletion: bool | None = None
    range: bool | None = None
    if_range: bool | None = None
    strong_etag: bool | None = None
    sync: bool | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """One request of the batch: what it asks beyond the model, and of which texts."""

    parameters: Mapping[str, Any]
    texts: tuple[str, ...]


def asks_of(config: Config, info: ModelInfo, request: EmbeddingsRequest) -> dict[str, Ask]:
    """The requests of the batch by name. Where a batch has its parameters in one place they cannot differ."""
    dialect = request.dialect
    asks = {"plain": Ask({}, (TEXT,))}
    if dialect.model_in == "line":
        if dialect.encoding is not None:
            for kind in dialect.formats:
                asks[kind] = Ask({} if kind == dialect.unsaid else {dialect.encoding: kind}, (TEXT,))
        if dialect.dimensions is not None:
            asks["dimensions"] = Ask({dialect.dimensions: _shorter(config, info)}, (TEXT,))
    most = min(config.batch.inputs_per_request, profile_of(config.embedding).limits.request_inputs)
    for count in sorted({most, min(most, 10), min(most, 2)} - {1}):
        asks[f"inputs-{count}"] = Ask({}, tuple(f"text {number}" for number in range(count)))
    asks["separators"] = Ask({}, (_SEPARATORS,))
    return asks


def _shorter(config: Config, info: ModelInfo) -> int:
    if info.shorter is None or info.name not in KNOWN:
        return config.embedding.dimensions or _SHORTER
    return info.shorter[0] if info.shorter else _SHORTER


def judged(
    asks: Mapping[str, Ask], results: Mapping[str, Mapping[str, Any]], request: EmbeddingsRequest
) -> dict[str, Any]:
    """What the bodies of the results, by name, say of the endpoint; one for "plain" is among them. Vectors must have
    the length that was asked for: some servers take a parameter and do something else."""
    length = _length(results["plain"])
    found: dict[str, Any] = {"vector_length": length, "usage": prompt_tokens(results["plain"]) > 0}
    for kind, name in _KINDS.items():
        if kind in asks:
            found[name] = _kind(results.get(kind, {})) == kind and _good(results[kind], 1, length)
    if request.dialect.model_in == "batch":
        found[_KINDS[request.encoding]] = _kind(results["plain"]) == request.encoding
    if "dimensions" in asks and (wanted := next(iter(asks["dimensions"].parameters.values()))) != length:
        found["dimensions"] = _good(results.get("dimensions", {}), 1, wanted)
    counts = [len(ask.texts) for name, ask in asks.items() if name.startswith("inputs-")]
    good = [count for count in counts if _good(results.get(f"inputs-{count}", {}), count, length)]
    found["inputs_per_request"] = max(good, default=1)
    found["line_separators"] = _good(results.get("separators", {}), 1, length)
    return found


def _embedding(body: Mapping[str, Any]) -> object:
    data = body.get("data")
    return data[0].get("embedding") if isinstance(data, list) and data and isinstance(data[0], dict) else None


def _kind(body: Mapping[str, Any]) -> str:
    value = _embedding(body)
    return "base64" if isinstance(value, str) else "float" if isinstance(value, list) else ""


def _length(body: Mapping[str, Any]) -> int:
    """Numbers in the vector that came, 0 where none did: base64 has four characters for three bytes."""
    value = _embedding(body)
    if isinstance(value, str):
        return len(value.rstrip("=")) * 3 // 4 // 4
    return len(value) if isinstance(value, list) else 0


def _good(body: Mapping[str, Any], inputs: int, length: int) -> bool:
    try:
        return bool(length) and bool(vectors_of(body, inputs, length).good.all())
    except BadDataError:
        return False


def settings_of(config: Config, features: Features) -> Settings:
    """The keys that say what was seen, by table."""
    embedding, own = config.embedding, KNOWN.get(config.embedding.model)
    found: Settings = {"embedding": {}, "batch": {"inputs_per_request": features.inputs_per_request}}
    if features.base64 or features.floats:
        found["embedding"]["encoding_format"] = "base64" if features.base64 else "float"
    if features.dimensions is not None and (own is None or not features.dimensions):
        found["embedding"]["send_dimensions"] = features.dimensions
    if own is None and embedding.dimensions is None and features.vector_length:
        found["embedding"]["dimensions"] = features.vector_length
    profile = profile_of(embedding)
    if features.endpoint != profile.dialect.endpoint:
        found["batch"]["endpoint"] = features.endpoint
    if features.listed_after_s is not None:
        usual = patience_of(profile, config.batch).listing_delay_s
        found["batch"]["listing_delay_s"] = max(usual, float(math.ceil(_LATE * features.listed_after_s)))
    return {table: values for table, values in found.items() if values}


def warnings_of(config: Config, features: Features) -> Iterator[str]:
    """What no setting can mend and a user should know."""
    wanted = config.embedding.dimensions
    if wanted and features.vector_length and wanted != features.vector_length and not features.dimensions:
        yield f"embedding.dimensions is {wanted}, and its vectors have {features.vector_length} numbers"
    if features.base64 is False and features.floats is False:
        yield "it gave no vector in base64 nor as floats when asked to"
    if features.listing is False:
        yield "new batches are not listed: where the answer to a submission is lost, its batch is paid for and not found"
    if features.listing and not features.metadata:
        yield "batches come back without metadata: lost ones are found by their input file alone"
    if features.file_deletion is False:
        yield "files cannot be deleted: a submission that is given up can still start later"
    if features.range is False:
        yield "files are given from the start only: a download that breaks off begins anew"
    elif features.range and not features.if_range:
        yield "nothing tells that a file is still the same: a download that breaks off begins anew"
    if features.usage is False:
        yield "results do not say how many tokens they took: spending records will be too low"
    if features.line_separators is False:
        yield "a text with U+2028 or U+0085 in it did not come through"
    if features.sync is False:
        yield "there is no synchronous endpoint: questions cannot be embedded, so `search` will not work"
