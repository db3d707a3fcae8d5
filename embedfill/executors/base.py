"""Where CPU-heavy, stateless work runs: one method."""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Executor(Protocol):
    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """`function` of each item, in the items' order, a bounded number of them ahead of the reader. Both the
        function (a top-level one, or a partial of it) and the items can be pickled. An error of one call is raised."""
