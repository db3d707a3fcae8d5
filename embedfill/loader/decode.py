"""The `data` of one embeddings response to vectors. Takes base64 and floats, in any order; trusts nothing."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pybase64
from numpy.typing import NDArray

from embedfill.models.base import Vectors


class BadDataError(ValueError):
    """The response's embeddings cannot be used. `kind` is a short stable name for counting."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Decoded:
    """Embeddings by index: `vectors`, float32, shape (inputs, dimensions), of which only the rows in the mask `good`
    may be used. `other_length` rows have another number of dimensions: that says nothing of their texts."""

    vectors: Vectors
    good: NDArray[np.bool_]
    other_length: NDArray[np.bool_]


def vectors_of(body: Mapping[str, Any], inputs: int, dimensions: int) -> Decoded:
    """The embeddings of a response body. Good are those of the right length, all finite and not all zero.

    Raises BadDataError when they are not exactly one for each of the `inputs`: with a short or odd `data` nobody
    can say which vector belongs to which text, so none of them is used.
    """
    data = body.get("data")
    if not isinstance(data, list) or len(data) != inputs:
        raise BadDataError(
            "wrong_count", f"{len(data) if isinstance(data, list) else 'no'} embeddings for {inputs} inputs"
        )
    vectors = np.zeros((inputs, dimensions), np.float32)
    other_length = np.zeros(inputs, bool)
    for index, value in _by_index(data):
        row = _row(value)
        if row is not None and len(row) == dimensions:
            vectors[index] = row
        else:
            other_length[index] = row is not None and len(row) > 0
    return Decoded(vectors, np.asarray(np.isfinite(vectors).all(axis=1) & vectors.any(axis=1)), other_length)


def _by_index(data: list[Any]) -> Iterator[tuple[int, object]]:
    """Index and embedding of each item; every index from 0 stands once. Raises BadDataError."""
    seen = set()
    for item in data:
        index = item.get("index") if isinstance(item, dict) else None
        if type(index) is not int or not 0 <= index < len(data) or index in seen:
            raise BadDataError("wrong_index", f"index {index!r} among {len(data)} inputs")
        seen.add(index)
        yield index, item.get("embedding")


def _row(value: object) -> Vectors | None:
    """One embedding, whatever it came as; None for what is neither base64 of float32 nor a list of numbers."""
    try:
        if isinstance(value, str):
            return np.frombuffer(pybase64.b64decode(value, validate=True), dtype="<f4")
        row = np.asarray(value if isinstance(value, list) else None)
    except ValueError:
        return None
    if row.ndim != 1 or (len(row) and row.dtype.kind not in "iuf"):
        return None
    with np.errstate(over="ignore"):  # too large for float32: it becomes infinite, and is not used
        return row.astype(np.float32)


def prompt_tokens(body: Mapping[str, Any]) -> int:
    usage = body.get("usage")
    # Where nothing is generated the total says the same, and one provider gives no other.
    value = usage.get("prompt_tokens", usage.get("total_tokens")) if isinstance(usage, dict) else None
    return value if type(value) is int and value >= 0 else 0
