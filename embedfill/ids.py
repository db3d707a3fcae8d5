"""Identities: canonical bytes to 16-byte ids, and arrays of ids. Knows nothing of what they name.

An id is BLAKE2b with a 16-byte digest and a `person` per kind, so equal bytes of two kinds never share an id.
Arrays of ids have dtype S16: they compare, sort and search as bytes. Never take a single element out of one as a
Python value (numpy strips trailing NULs there): go through `tolist`.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

ID_BYTES = 16
ID_TYPE = pa.binary(ID_BYTES)
IdArray = NDArray[np.bytes_]

_MERGE_AT = 4  # runs of an IdSet before they are merged into one


def canonical(value: object) -> bytes:
    """One byte string per JSON value: sorted keys, no white space."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def digest(kind: str, *parts: bytes) -> bytes:
    """The id of the parts, as 16 bytes. With more than one part, each part's length goes in before it."""
    state = hashlib.blake2b(digest_size=ID_BYTES, person=kind.encode())
    for part in parts:
        if len(parts) > 1:
            state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return state.digest()


def digest_hex(kind: str, *parts: bytes) -> str:
    return digest(kind, *parts).hex()


def text_id(text: str) -> bytes:
    """The identity of a text: the hash of its UTF-8 bytes."""
    return hashlib.blake2b(text.encode(), digest_size=ID_BYTES, person=b"text").digest()


def file_digest(path: Path) -> str:
    """The hash of a file's bytes, in hexadecimal; the name of every bulk object."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=ID_BYTES, person=b"file")).hexdigest()


def array(ids: Iterable[bytes]) -> IdArray:
    """16-byte ids to an array of dtype S16, shape (n,)."""
    return np.frombuffer(b"".join(ids), dtype="S16")


def tolist(ids: IdArray) -> list[bytes]:
    """An S16 array to Python bytes, each 16 long."""
    raw = np.ascontiguousarray(ids).tobytes()
    return [raw[at : at + ID_BYTES] for at in range(0, len(raw), ID_BYTES)]


def from_arrow(column: Any) -> IdArray:  # noqa: ANN401 - pyarrow has no types
    """A fixed-size binary column (no nulls) to an array of dtype S16, without a copy where it has one chunk."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    views = [_view(chunk) for chunk in chunks if len(chunk)]
    if not views:
        return array([])
    return views[0] if len(views) == 1 else np.concatenate(views)


def _view(chunk: Any) -> IdArray:  # noqa: ANN401
    data = np.frombuffer(chunk.buffers()[1], dtype="S16")
    return data[chunk.offset : chunk.offset + len(chunk)]


def to_arrow(ids: IdArray) -> Any:  # noqa: ANN401
    """An S16 array to a fixed-size binary column."""
    data = np.ascontiguousarray(ids)
    return pa.FixedSizeBinaryArray.from_buffers(ID_TYPE, len(data), [None, pa.py_buffer(data.tobytes())])


def find(haystack: IdArray, needles: IdArray) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Positions of `needles` in the sorted `haystack`, and whether each is really there."""
    if len(haystack) == 0:
        return np.zeros(len(needles), np.int64), np.zeros(len(needles), bool)
    at = np.searchsorted(haystack, needles)
    at[at == len(haystack)] = 0
    return at, haystack[at] == needles


def first_of_each(ids: IdArray) -> NDArray[np.bool_]:
    """True where an id stands for the first time in `ids`."""
    mask = np.zeros(len(ids), bool)
    mask[np.unique(ids, return_index=True)[1]] = True
    return mask


class IdSet:
    """A growing set of ids at 16 bytes each: sorted runs, merged when there are several of like size."""

    def __init__(self, ids: IdArray | None = None) -> None:
        self._runs: list[IdArray] = []
        if ids is not None:
            self.add(ids)

    def __len__(self) -> int:
        return sum(len(run) for run in self._runs)

    def has(self, ids: IdArray) -> NDArray[np.bool_]:
        """Which of `ids` are in the set; shape and order of `ids`."""
        found = np.zeros(len(ids), bool)
        for run in self._runs:
            found |= find(run, ids)[1]
        return found

    def add(self, ids: IdArray) -> NDArray[np.bool_]:
        """Adds `ids`; True where one was new (and stands for the first time in `ids`)."""
        new = first_of_each(ids) & ~self.has(ids)
        if new.any():
            self._runs.append(np.sort(ids[new]))
            self._merge()
        return new

    def sorted(self) -> IdArray:
        """All ids, sorted."""
        if len(self._runs) > 1:
            self._runs = [np.sort(np.concatenate(self._runs))]
        return self._runs[0] if self._runs else array([])

    def _merge(self) -> None:
        # Geometric sizes: a run is merged into the one before it once that one is less than four times as long.
        while len(self._runs) > 1 and len(self._runs[-2]) < _MERGE_AT * len(self._runs[-1]):
            last = self._runs.pop()
            self._runs[-1] = np.sort(np.concatenate([self._runs[-1], last]))
