"""The store protocol: write-once objects under `/`-separated keys. Seven methods; no rename, append or overwrite.

Two ways to write: `create` for small objects that decide something (absent before, whole or not at all, one winner),
and `put_file` for bulk, only under names that nobody else can choose (a content hash or a nonce): a bulk object counts
only once a created object refers to it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

_LONGEST = 800  # S3 and Google take 1,024 bytes, and the store's own prefix comes before
_PART = r"(?!\.{1,2}(?:/|$))(?!\.tmp-)[A-Za-z0-9._=-]{1,200}"
_KEY = re.compile(rf"{_PART}(?:/{_PART})*")


@dataclass(frozen=True, slots=True)
class Entry:
    """One object of a listing. `modified` is seconds by the *store's* clock: compare it with other entries only."""

    key: str
    size: int
    modified: float


class Store(Protocol):
    """Raises MissingError for a key that is not there, StoreError when the store cannot be used."""

    url: str

    def create(self, key: str, data: bytes) -> bool:
        """Writes a small object if the key is free, whole or not at all, durable on return. True when the object is
        ours now: also when it was there with equal bytes (the reply to our own earlier try may have been lost)."""

    def put_file(self, key: str, path: Path) -> None:
        """Writes a file's bytes, streaming. The key must be one that only these bytes (or only we) can have."""

    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """The object's bytes from `start` to `stop` (its end by default)."""

    def fetch(self, key: str, path: Path) -> None:
        """Writes the object to a local file, streaming."""

    def list(self, prefix: str, start_after: str = "") -> Iterator[Entry]:
        """Objects whose key begins with `prefix`, in key order, from after `start_after`."""

    def delete(self, key: str) -> None:
        """Removes an object, for prune alone. Removing what is not there is no error."""

    def local_path(self, key: str) -> Path | None:
        """Where an object of this key lies (or would lie) as a file of this machine; None if it never does."""


def check_key(key: str) -> str:
    """Refuses keys that a directory or a bucket could read in two ways: only ASCII letters, digits and `._=-` in each
    part, so that no service encodes them, no file system folds them, and every listing sorts them alike."""
    if len(key) > _LONGEST or not _KEY.fullmatch(key):
        raise ValueError(f"not a store key: {key!r}")
    return key
