"""Processes of this machine. Small work stays in this process: starting others costs more than it saves."""

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import chain, islice
from types import TracebackType
from typing import Any, Self

from embedfill.executors.base import Item, Result

_INLINE_ITEMS = 4
_AHEAD = 3  # items in work or waiting, per worker


class LocalExecutor:
    """`workers` processes, started at the first work that is worth it. A context: it ends them."""

    def __init__(self, workers: int) -> None:
        self.workers = max(1, workers)
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        if self.workers == 1:
            return map(function, items)
        rest = iter(items)
        head = list(islice(rest, _INLINE_ITEMS))
        return chain(map(function, head), self._spread(function, rest))

    def _spread(self, function: Callable[[Item], Result], items: Iterator[Item]) -> Iterator[Result]:
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(self._submit(function, item))
            if len(waiting) >= self.workers * _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _submit(self, function: Callable[[Item], Result], item: Any) -> Future[Result]:  # noqa: ANN401
        if self._pool is None:
            # Spawned, not forked: a forked child of a process with running threads may hang.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.workers, mp_context=context, initializer=_one_thread)
        return self._pool.submit(function, item)


def _one_thread() -> None:
    """There is a process per core already: libraries that would start a thread per core in each are told not to."""
    for name in ("RAYON_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ[name] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
