"""Runs batches on local models: a thread beside the event loop that takes lines and embeds them together.

Lines of all running batches of one model are gathered into windows. A line is finished once its row is on disk;
whatever a crash interrupts is run again, and nothing else is.
"""

import time
from collections.abc import Sequence

from embedfill.engine import embeddings
from embedfill.engine.embeddings import Embedded, EmbeddingRequest
from embedfill.engine.job import Item, Job, failed, succeeded
from embedfill.engine.jobs import Jobs
from embedfill.engine.pool import Answer, Pace, Pool, Runner
from embedfill.engine.spool import Result
from embedfill.errors import EmbedfillError, RefusedError

_WINDOW_S = 0.5
_WINDOW_BYTES = (16_384, 4_194_304)  # of request lines
_WINDOW_INPUTS = 8_192

# What a request can make a model raise. It costs that request its result, not the engine its life.
_MODEL_FAILURES = (EmbedfillError, ValueError, TypeError, ArithmeticError, LookupError, RuntimeError, MemoryError)

Window = list[tuple[Job, Item, EmbeddingRequest]]


class Worker:
    """`step` does one piece of work, of about half a second, and is called by one thread only."""

    def __init__(self, jobs: Jobs, pool: Pool) -> None:
        self._jobs = jobs
        self._pool = pool
        self._pace = Pace(_WINDOW_S, *_WINDOW_BYTES)

    def step(self) -> bool:
        """Settles what is to be settled, and runs one window. False when there is nothing to do."""
        running = self._jobs.running()
        if running:
            self._run([job for job in running if job.batch.model == running[0].batch.model])
        return self._jobs.active

    def close(self) -> None:
        self._jobs.close()

    def _run(self, jobs: list[Job]) -> None:
        runner = self._pool.runner(jobs[0].batch.model or "")
        window, size = self._gather(jobs, runner)
        began = time.perf_counter()
        answers = _answers(runner, [request for _job, _item, request in window])
        results: dict[str, list[Result]] = {}
        for (job, item, request), reply in zip(window, answers):
            line = succeeded(item, request, reply) if isinstance(reply, Embedded) else failed(item, reply)
            results.setdefault(job.batch.id, []).append(line)
        for job in jobs:
            if job.batch.id in results:
                job.put(results[job.batch.id])
        self._pace.took(size, time.perf_counter() - began)

    def _gather(self, jobs: list[Job], runner: Runner) -> tuple[Window, int]:
        """Requests of about as many bytes as fit into a window, and their bytes. Malformed ones are settled here."""
        window: Window = []
        size = inputs = 0
        for job in jobs:
            refusals: list[Result] = []
            while size < self._pace.budget and inputs < _WINDOW_INPUTS and (item := job.take()):
                size += item.size
                try:
                    request = embeddings.parse(item.body, runner.model)
                except RefusedError as error:
                    refusals.append(failed(item, error))
                    continue
                inputs += len(request.inputs)
                window.append((job, item, request))
            if refusals:
                job.put(refusals)
        return window, size


def _answers(runner: Runner, requests: Sequence[EmbeddingRequest]) -> list[Answer]:
    """Answers in order. Where the model fails at the whole window, each request is tried alone."""
    if not requests:
        return []
    try:
        return runner.answer(requests)
    except _MODEL_FAILURES as error:
        if len(requests) > 1:
            return [_answers(runner, [request])[0] for request in requests]
        return [RefusedError(500, "internal_error", f"The model failed at this request: {error}")]
