"""The `data` of one embeddings response to vectors. Takes base64 and floats, in any order; trusts nothing."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pybase64

from embedfill.models.base import Vectors


class BadDataError(ValueError):
    """The response's embeddings cannot be used. `kind` is a short stable name for counting."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def vectors_of(body: Mapping[str, Any], inputs: int, dimensions: int) -> Vectors:
    """The embeddings of a response body by index: float32, shape (inputs, dimensions), every value finite.

    Raises BadDataError when they are not exactly one for each of the `inputs`: with a short or odd `data` nobody
    can say which vector belongs to which text, so none of them is used. A row that alone is bad comes back as NaN.
    """
    data = body.get("data")
    if not isinstance(data, list) or len(data) != inputs:
        raise BadDataError(
            "wrong_count", f"{len(data) if isinstance(data, list) else 'no'} embeddings for {inputs} inputs"
        )
    out = np.full((inputs, dimensions), np.nan, np.float32)
    seen = set()
    for item in data:
        index = item.get("index") if isinstance(item, dict) else None
        if type(index) is not int or not 0 <= index < inputs or index in seen:
            raise BadDataError("wrong_index", f"index {index!r} among {inputs} inputs")
        seen.add(index)
        row = _row(item.get("embedding"))
        if row is not None and len(row) == dimensions:
            out[index] = row
    bad = ~np.isfinite(out).all(axis=1) | ~out.any(axis=1)
    out[bad] = np.nan
    return out


def _row(value: object) -> Vectors | None:
    """One embedding, whatever it came as; None for what is neither base64 of float32 nor a list of numbers."""
    try:
        if isinstance(value, str):
            return np.frombuffer(pybase64.b64decode(value, validate=True), dtype="<f4")
        return np.asarray(value, dtype=np.float32) if isinstance(value, list) else None
    except (ValueError, TypeError, OverflowError):
        return None


def prompt_tokens(body: Mapping[str, Any]) -> int:
    usage = body.get("usage")
    value = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return value if type(value) is int and value >= 0 else 0
