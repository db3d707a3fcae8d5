"""What waits until it is due, counted by whose it is. Knows no clock."""

import heapq
import math
from collections import Counter
from collections.abc import Hashable, Iterator
from itertools import count
from typing import Generic, TypeVar

Thing = TypeVar("Thing")


class Waiting(Generic[Thing]):
    """Of things due at the same time, the one that came first goes first."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Hashable, Thing]] = []
        self._order = count()
        self.of: Counter[Hashable] = Counter()  # how many of each

    def __iter__(self) -> Iterator[Thing]:
        yield from (entry[3] for entry in self._heap)

    @property
    def due_at(self) -> float:
        """When the first is due; infinite where there is none."""
        return self._heap[0][0] if self._heap else math.inf

    def add(self, due: float, whose: Hashable, thing: Thing) -> None:
        heapq.heappush(self._heap, (due, next(self._order), whose, thing))
        self.of[whose] += 1

    def pop(self, now: float) -> Thing | None:
        """The first that is due by now."""
        if self.due_at > now:
            return None
        _due, _order, whose, thing = heapq.heappop(self._heap)
        self._left(whose)
        return thing

    def remove(self, thing: Thing) -> None:
        for entry in [entry for entry in self._heap if entry[3] is thing]:
            self._heap.remove(entry)
            self._left(entry[2])
        heapq.heapify(self._heap)

    def _left(self, whose: Hashable) -> None:
        self.of[whose] -= 1
        if not self.of[whose]:
            del self.of[whose]
