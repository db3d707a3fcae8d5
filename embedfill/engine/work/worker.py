"""Runs batches on local models: a thread beside the event loop that takes lines and embeds them together.

Lines of all running batches of one model are gathered into windows. A line is finished once its row is on disk;
whatever a crash interrupts is run again, and nothing else is.
"""

import time
from collections import defaultdict, deque
from collections.abc import Sequence

from embedfill.batchapi.models import EMBEDDINGS
from embedfill.engine.state.spool import Result
from embedfill.engine.work import embeddings
from embedfill.engine.work.embeddings import Embedded, EmbeddingRequest
from embedfill.engine.work.job import Item, Job, failed, succeeded
from embedfill.engine.work.jobs import Jobs
from embedfill.engine.work.pool import Answer, Pace, Pool, Runner
from embedfill.engine.work.schedule import Schedule, Window
from embedfill.errors import EmbedfillError, RefusedError, WorldError

_WINDOW_S = 0.5
_WINDOW_BYTES = (16_384, 4_194_304)  # of request lines
_WINDOW_LINES = 2_048
_WINDOW_INPUTS = 8_192
_WINDOW_FLOATS = 4 << 20  # of their vectors: as text these are 80 MB or so

# What a request can make a model raise. It costs that request its result, not the engine its life.
_MODEL_FAILURES = (EmbedfillError, ValueError, TypeError, ArithmeticError, LookupError, RuntimeError, MemoryError)

Asked = tuple[Job, Item, EmbeddingRequest]
Results = defaultdict[Job, list[Result]]


class Worker:
    """`step` does one piece of work, of about half a second, and is called by one thread only."""

    def __init__(self, jobs: Jobs, pool: Pool) -> None:
        self._jobs = jobs
        self._pool = pool
        self._schedule = Schedule()
        self._paces: defaultdict[str, Pace] = defaultdict(lambda: Pace(_WINDOW_S, *_WINDOW_BYTES))  # by model

    def step(self) -> bool:
        """Settles what is to be settled, and runs one window. False when there is nothing to do."""
        running = self._jobs.running()
        if running:
            wants: dict[str, list[str]] = {}
            for job in running:
                wants.setdefault(job.batch.owner, []).append(job.model)
            model = self._schedule.model(wants)
            self._run(model, [job for job in running if job.model == model])
        return self._jobs.active

    def close(self) -> None:
        self._jobs.close()

    def _run(self, model: str, jobs: list[Job]) -> None:
        pace = self._paces[model]
        window = self._schedule.window(model, [job.batch.owner for job in jobs], pace.budget)
        began = time.perf_counter()
        runner = self._runner(model)
        asked, results = _gather(jobs, window, runner)
        if isinstance(runner, Runner):
            answers = _answers(runner, [request for _job, _item, request in asked])
            for (job, item, request), reply in zip(asked, answers):
                line = succeeded(item, request, reply) if isinstance(reply, Embedded) else failed(item, reply)
                results[job].append(line)
        for job, lines in results.items():
            job.put(lines)
        seconds = time.perf_counter() - began
        self._schedule.took(model, window, seconds)
        pace.took(sum(window.served.values()), seconds)

    def _runner(self, model: str) -> Runner | RefusedError:
        """The model, or why there is none: the engine may have been configured otherwise when the batch was made."""
        try:
            return self._pool.runner(model)
        except RefusedError as error:
            return error
        except (*_MODEL_FAILURES, OSError) as error:
            hint = f" ({error.hint})" if isinstance(error, EmbedfillError) and error.hint else ""
            return RefusedError(500, "internal_error", f"The model '{model}' cannot be loaded: {error}{hint}")


def _gather(jobs: list[Job], window: Window, runner: Runner | RefusedError) -> tuple[list[Asked], Results]:
    """Requests of about as many bytes as fit into the window, and the results of those that are refused at once."""
    queues: dict[str, deque[Job]] = defaultdict(deque)
    for job in jobs:
        queues[job.batch.owner].append(job)
    asked: list[Asked] = []
    results: Results = defaultdict(list)
    lines = inputs = 0
    most = _most_inputs(runner.model.dimensions) if isinstance(runner, Runner) else _WINDOW_INPUTS
    while lines < _WINDOW_LINES and inputs < most and (turn := window.next()) is not None:
        owner, size = turn
        queue, taken = queues[owner], 0
        while queue and taken < size and lines < _WINDOW_LINES and inputs < most:
            job = queue[0]
            if (item := job.take()) is None:
                queue.popleft()
                continue
            lines, taken = lines + 1, taken + item.size
            request = _request(job, item, runner)
            if isinstance(request, RefusedError):
                results[job].append(failed(item, request))
            else:
                asked.append((job, item, request))
                inputs += len(request.inputs)
        window.took(owner, taken, dry=not queue)
    return asked, results


def _most_inputs(dimensions: int) -> int:
    return max(1, min(_WINDOW_INPUTS, _WINDOW_FLOATS // dimensions))


def _request(job: Job, item: Item, runner: Runner | RefusedError) -> EmbeddingRequest | RefusedError:
    if isinstance(runner, RefusedError):
        return runner
    if job.batch.endpoint != EMBEDDINGS:
        message = f"The model '{job.model}' is not served at {job.batch.endpoint} here."
        return RefusedError(404, "model_not_found", message, param="model")
    try:
        return embeddings.parse(item.body, runner.model)
    except RefusedError as error:
        return error


def _answers(runner: Runner, requests: Sequence[EmbeddingRequest]) -> list[Answer]:
    """Answers in order. Where the model fails at the whole window, each request is tried alone."""
    if not requests:
        return []
    try:
        return runner.answer(requests)
    except OSError as error:  # of no request's making; nor would it help to wait for room
        raise WorldError(
            f"the model '{requests[0].model}' failed: {error}", "see that its files can be read"
        ) from error
    except _MODEL_FAILURES as error:
        if len(requests) > 1:
            return [_answers(runner, [request])[0] for request in requests]
        return [RefusedError(500, "internal_error", f"The model failed at this request: {error}")]
