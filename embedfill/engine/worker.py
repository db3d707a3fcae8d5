"""Runs batches: a thread beside the event loop that takes lines, embeds them together and settles what has ended.

Lines of all running batches of one model are gathered into windows, oldest batch first. A line is finished once its
row is on disk; whatever a crash interrupts is run again, and nothing else is.
"""

import time
from collections.abc import Sequence
from itertools import islice

from embedfill.batchapi.models import File
from embedfill.engine import embeddings, files
from embedfill.engine.batches import Active, Batches
from embedfill.engine.embeddings import Embedded, EmbeddingRequest
from embedfill.engine.files import Files
from embedfill.engine.job import Item, Job, failed, never_run, succeeded
from embedfill.engine.pool import Answer, Pace, Pool, Runner
from embedfill.engine.spool import Name, Result, Spools
from embedfill.errors import EmbedfillError, RefusedError

_WINDOW_S = 0.5
_WINDOW_BYTES = (16_384, 4_194_304)  # of request lines
_WINDOW_INPUTS = 8_192
_OPEN_BATCHES = 64  # three open files each
_WRITTEN_OFF = 1_000  # lines of one append

# What a request can make a model raise. It costs that request its result, not the engine its life.
_MODEL_FAILURES = (EmbedfillError, ValueError, TypeError, ArithmeticError, LookupError, RuntimeError, MemoryError)

Window = list[tuple[Job, Item, EmbeddingRequest]]


class Worker:
    """`step` does one piece of work, of about half a second, and is called by one thread only."""

    def __init__(self, batches: Batches, files: Files, spools: Spools, pool: Pool) -> None:
        self._batches = batches
        self._files = files
        self._spools = spools
        self._pool = pool
        self._jobs: dict[str, Job] = {}
        self._pace = Pace(_WINDOW_S, *_WINDOW_BYTES)

    def step(self) -> bool:
        """Settles what is to be settled, else runs one window. False when there is nothing to do."""
        active = [batch for batch in self._batches.active() if batch.model is not None]  # validated
        running = [batch for batch in active if not self._settled(batch)][:_OPEN_BATCHES]
        if running:
            self._run([self._job(batch) for batch in running if batch.model == running[0].model])
        return bool(active)

    def close(self) -> None:
        for job in self._jobs.values():
            job.settle()
            job.close()
        self._jobs.clear()

    def _job(self, batch: Active) -> Job:
        if batch.id not in self._jobs:
            self._jobs[batch.id] = Job(batch, self._spools)
        return self._jobs[batch.id]

    def _settled(self, batch: Active) -> bool:
        """Brings a batch to its end where it is due; False where it still has to run."""
        if batch.status == "cancelling":
            self._write_off(batch, "batch_cancelled", "This request was not run: the batch was cancelled.")
            self._end(batch, "cancelling", "cancelled")
        elif batch.status == "finalizing" or (batch.id in self._jobs and self._jobs[batch.id].exhausted):
            self._job(batch).settle()
            if self._batches.finalize(batch.id):
                self._end(batch, "finalizing", "completed")
        elif time.time() >= batch.expires_at:
            self._write_off(batch, "batch_expired", "This request could not be run before the batch expired.")
            self._end(batch, "in_progress", "expired")
        else:
            return False
        return True

    def _run(self, jobs: list[Job]) -> None:
        runner = self._pool.runner(jobs[0].batch.model or "")
        window, size = self._gather(jobs, runner)
        began = time.perf_counter()
        answers = _answers(runner, [request for _job, _item, request in window])
        results: dict[str, list[Result]] = {}
        for (job, item, request), reply in zip(window, answers):
            line = succeeded(item, request, reply) if isinstance(reply, Embedded) else failed(item, reply)
            results.setdefault(job.batch.id, []).append(line)
        for batch_id, lines in results.items():
            self._jobs[batch_id].put(lines)
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

    def _write_off(self, batch: Active, code: str, message: str) -> None:
        """Gives every request that is left a line that says why it was not run."""
        job = self._job(batch)
        while items := list(islice(iter(job.take, None), _WRITTEN_OFF)):
            job.put([never_run(item, code, message) for item in items])

    def _end(self, batch: Active, before: str, after: str) -> None:
        """Turns the spool into files and ends the batch. Where its status changed meanwhile, the next step sees to it."""
        job = self._job(batch)
        job.settle()
        output, error = self._link(job, "output"), self._link(job, "error")
        if self._batches.end(batch.id, before, after, output, error):
            job.close()
            del self._jobs[batch.id]
            self._spools.remove(batch.id)
        else:
            for file in (output, error):
                if file is not None:
                    self._files.path(file.id).unlink()

    def _link(self, job: Job, name: Name) -> File | None:
        """A file of what was spooled, still without a row; None where nothing was."""
        size = job.spool.size(name)
        if not size:
            return None
        file = files.new_file(size, f"{job.batch.id}_{name}.jsonl", "batch_output", job.batch.output_seconds)
        self._files.link(job.spool.path(name), file)
        return file


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
