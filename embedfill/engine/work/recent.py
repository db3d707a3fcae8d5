"""Vectors of inputs that batches asked for lately, so that the same input is not embedded again. Bounded; in memory only.

It covers identical inputs of batches on one model, whoever sent them, as long as they are remembered: not those of
another model, of before a restart, or of synchronous requests, whose answers would tell by their speed what others asked.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from embedfill.engine.work.embeddings import Input
from embedfill.models.base import Vectors

_ENTRY_BYTES = 300  # of an entry beside its input and its vector
_TOKEN_BYTES = 36  # of a token id, as Python keeps it


class Recent:
    """The least recently used go when there are more than `most_bytes`."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._held = 0
        self._known: OrderedDict[Input, tuple[int, Vectors]] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, inputs: Sequence[Input]) -> dict[int, tuple[int, Vectors]]:
        """Tokens and vector of those that are known, by their places."""
        if not self._known:
            return {}
        with self._lock:
            found = {place: self._known[item] for place, item in enumerate(inputs) if item in self._known}
            for place in found:
                self._known.move_to_end(inputs[place])
        return found

    def add(self, entries: Iterable[tuple[Input, int, Vectors]]) -> None:
        """Inputs with their tokens and vectors, shape (dimensions,). Nothing is kept of the arrays that they are in."""
        with self._lock:
            for item, tokens, vector in entries:
                if item not in self._known:
                    self._known[item] = tokens, vector.copy()
                    self._held += _size(item, vector)
            while self._held > self._most:
                item, (_tokens, vector) = self._known.popitem(last=False)
                self._held -= _size(item, vector)


def _size(item: Input, vector: Vectors) -> int:
    held = len(item.encode()) if isinstance(item, str) else _TOKEN_BYTES * len(item)
    return held + vector.nbytes + _ENTRY_BYTES
