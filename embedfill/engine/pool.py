"""The local models that the engine runs: each loaded once, shared by batches and synchronous requests.

Inputs of many requests are embedded together: tokenized once, identical ones computed once, sorted by length into
forward passes. A synchronous request waits for one forward pass of a batch at most. Knows no files and no HTTP.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from embedfill.engine.embeddings import Embedded, EmbeddingRequest, Input, over_limit, unknown_token
from embedfill.errors import RefusedError
from embedfill.models.base import Model, Vectors
from embedfill.models.known import LOCAL
from embedfill.models.load import load
from embedfill.models.tokenizers import load_file

_FORWARD_S = 0.2
_FORWARD_TOKENS = (1_024, 131_072)

Answer = Embedded | RefusedError


class Pace:
    """How much work fits into a given time, learnt from the work that was done."""

    def __init__(self, target_s: float, least: int, most: int) -> None:
        self.budget = least
        self._target_s = target_s
        self._least = least
        self._most = most

    def took(self, amount: int, seconds: float) -> None:
        """`amount` was done in `seconds`. Little work says little about much work, and the first time may be odd."""
        if 2 * amount >= self.budget:
            fitting = int(amount * self._target_s / max(seconds, 1e-6))
            self.budget = min(max(fitting, self._least), self.budget * 2, self._most)


class Gate:
    """A lock whose urgent takers go first."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._taken = False
        self._urgent = 0

    @contextmanager
    def hold(self, urgent: bool) -> Iterator[None]:
        with self._condition:
            self._urgent += urgent
            self._condition.wait_for(lambda: not self._taken and (urgent or not self._urgent))
            self._urgent -= urgent
            self._taken = True
        try:
            yield
        finally:
            with self._condition:
                self._taken = False
                self._condition.notify_all()


class Runner:
    """One loaded model."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._tokenizer = load_file(model.name)
        self._gate = Gate()
        self._pace = Pace(_FORWARD_S, *_FORWARD_TOKENS)

    def answer(self, requests: Sequence[EmbeddingRequest], urgent: bool = False) -> list[Answer]:
        """Vectors and token counts of each request, or why it is refused."""
        places: dict[Input, int] = {}
        rows = [[places.setdefault(item, len(places)) for item in request.inputs] for request in requests]
        ids = self._ids(list(places))
        lengths = np.fromiter(map(len, ids), np.int64, len(ids)) + self._tokenizer.special_tokens
        counts = [lengths[row].tolist() for row in rows]
        refusals = [
            over_limit(count, self.model.max_tokens) or unknown_token(request.inputs, self._tokenizer.vocabulary)
            for count, request in zip(counts, requests)
        ]
        if any(refusals):
            wanted = {place for row, refusal in zip(rows, refusals) if not refusal for place in row}
            ids = [tokens if place in wanted else () for place, tokens in enumerate(ids)]
        vectors = self._embed(ids, urgent)
        return [refusal or Embedded(vectors[row], sum(count)) for row, count, refusal in zip(rows, counts, refusals)]

    def _ids(self, inputs: list[Input]) -> list[Sequence[int]]:
        texts = iter(self._tokenizer.ids([item for item in inputs if isinstance(item, str)]))
        return [next(texts) if isinstance(item, str) else item for item in inputs]

    def _embed(self, inputs: list[Sequence[int]], urgent: bool) -> Vectors:
        """Vectors in order, shape (inputs, dimensions), by forward passes of inputs of like length."""
        vectors = np.empty((len(inputs), self.model.dimensions), np.float32)
        order = sorted(range(len(inputs)), key=lambda place: len(inputs[place]))
        start = 0
        ends = np.cumsum([len(inputs[place]) for place in order])
        while start < len(order):
            done = int(ends[start - 1]) if start else 0
            stop = max(int(np.searchsorted(ends, done + self._pace.budget, "right")), start + 1)
            part = order[start:stop]
            with self._gate.hold(urgent):
                began = time.perf_counter()
                vectors[part] = self.model.embed([inputs[place] for place in part])
                self._pace.took(int(ends[stop - 1]) - done, time.perf_counter() - began)
            start = stop
        return vectors


class Pool:
    """Models by name. A model is loaded when it is first asked for."""

    names = LOCAL

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._runners: dict[str, Runner] = {}
        self._lock = threading.Lock()

    def runner(self, name: str) -> Runner:
        """Raises RefusedError (404) for an unknown name, ModelError where its packages are missing."""
        if name not in self.names:
            message = f"The model '{name}' does not exist here; there are: {', '.join(self.names)}."
            raise RefusedError(404, "model_not_found", message, param="model")
        with self._lock:
            if name not in self._runners:
                self._runners[name] = Runner(load(name, self._threads))
            return self._runners[name]
