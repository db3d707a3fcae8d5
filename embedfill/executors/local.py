"""Processes of this machine. Small work stays in this process: starting others costs more than it saves."""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import chain, islice
from multiprocessing import resource_tracker
from threading import Thread
from types import TracebackType
from typing import Any, Self

from embedfill.errors import WorldError
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
        try:
            for item in items:
                waiting.append(self._submit(function, item))
                if len(waiting) >= self.workers * _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            hint = "it may have run out of memory: try fewer executor.workers"
            raise WorldError("a worker process ended in the middle of its work", hint) from None

    def _submit(self, function: Callable[[Item], Result], item: Any) -> Future[Result]:  # noqa: ANN401
        if self._pool is None:
            # Spawned, not forked: a forked child of a process with running threads may hang.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.workers, mp_context=context, initializer=_prepare)
        with _interrupts_held():  # any submission may start a process, while there are fewer than `workers`
            return self._pool.submit(function, item)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Holds Ctrl-C back until the block ends. Processes started in it never see one: it is for this process to handle,
    where a terminal sends it to all."""
    resource_tracker.ensure_running()  # which would let it through again when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _prepare() -> None:
    """A new worker: one thread (there is a process per core), and an end when the process that started it has one."""
    for name in ("RAYON_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ[name] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A killed parent cannot say that there is no more work, and its workers would wait for it for ever.
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)
