"""The local models that the engine runs: each loaded once, shared by batches and synchronous requests.

Inputs of many requests are embedded together: tokenized once, identical ones computed once, sorted by length into
forward passes. A synchronous request waits for one forward pass of a batch at most. Knows no files and no HTTP.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np

from embedfill.batchapi.limits import LOCAL as ENGINE
from embedfill.engine.telemetry import logs
from embedfill.engine.telemetry.meter import UNMETERED, Meter
from embedfill.engine.work.embeddings import Embedded, EmbeddingRequest, Input, over_limit, unknown_token
from embedfill.engine.work.recent import Recent
from embedfill.errors import EmbedfillError, RefusedError
from embedfill.models.base import IdTokenizer, Model, Vectors
from embedfill.models.load import load, offered

# What a request can make a model raise. It costs that request its result, not the engine its life.
FAILURES = (EmbedfillError, ValueError, TypeError, ArithmeticError, LookupError, RuntimeError, MemoryError)
_FORWARD_S = 0.2
_FORWARD_TOKENS = (1_024, 131_072)
_RECENT_BYTES = 32 << 20  # of each model
_WORTH_S = 100e-6  # to remember a vector and to find it again takes 2 µs or so; all but static models need far more

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
    """One loaded model. Runners that share a gate run one at a time: together they take no more cores than one."""

    def __init__(
        self,
        model: Model,
        gate: Gate | None = None,
        request_tokens: int = ENGINE.request_tokens,
        meter: Meter = UNMETERED,
    ) -> None:
        self.model = model
        self._meter = meter
        self._request_tokens = request_tokens
        self._ids = model.tokenizer if isinstance(model.tokenizer, IdTokenizer) else None
        self._gate = gate or Gate()
        self._pace = Pace(_FORWARD_S, *_FORWARD_TOKENS)
        self._recent = Recent(_RECENT_BYTES)

    def answer(self, requests: Sequence[EmbeddingRequest], urgent: bool = False) -> list[Answer]:
        """Vectors and token counts of each request, or why it is refused."""
        places: dict[Input, int] = {}
        rows = [[places.setdefault(item, len(places)) for item in request.inputs] for request in requests]
        inputs = list(places)
        known = {} if urgent else self._recent.find(inputs)
        given, lengths = self._tokenized(inputs, known)
        tokens = [sum([lengths[place] for place in row]) for row in rows]
        refusals = self._refusals(requests, rows, lengths, tokens)
        wanted = {place for index, row in enumerate(rows) if index not in refusals for place in row} - known.keys()
        vectors, seconds = self._embed(given, lengths, wanted, urgent)
        for place, (_tokens, vector) in known.items():
            vectors[place] = vector
        if not urgent and seconds > _WORTH_S * len(wanted):
            self._recent.add((inputs[place], lengths[place], vectors[place]) for place in wanted)
        return [
            refusals.get(index) or Embedded(_rows(vectors, row), count)
            for index, (row, count) in enumerate(zip(rows, tokens))
        ]

    def _refusals(
        self, requests: Sequence[EmbeddingRequest], rows: list[list[int]], lengths: list[int], tokens: list[int]
    ) -> dict[int, RefusedError]:
        """Answers to the requests that ask for too much, by their places."""
        most, vocabulary = self.model.max_tokens, self.model.tokenizer.vocabulary
        found: dict[int, RefusedError] = {}
        for index, (request, row) in enumerate(zip(requests, rows)):
            refusal = None
            if tokens[index] > min(most, self._request_tokens):  # else no input has more
                refusal = over_limit([lengths[place] for place in row], most, self._request_tokens)
            if refusal is None and type(request.inputs[0]) is not str:
                refusal = unknown_token(request.inputs, vocabulary)
            if refusal is not None:
                found[index] = refusal
        return found

    def _tokenized(
        self, inputs: list[Input], known: Mapping[int, tuple[int, Vectors]]
    ) -> tuple[Sequence[str | Sequence[int]], list[int]]:
        """What the model is given, token ids where its tokenizer gives them, and the tokens of each input."""
        special = self.model.tokenizer.special_tokens
        found = [(place, item) for place, item in enumerate(inputs) if isinstance(item, str) and place not in known]
        places, texts = [place for place, _text in found], [text for _place, text in found]
        given: list[str | Sequence[int]] = list(inputs)
        lengths = [len(item) + special for item in inputs]
        if self._ids is not None:
            for place, ids in zip(places, self._ids.ids(texts)):
                given[place], lengths[place] = ids, len(ids) + special
        else:
            for place, count in zip(places, self.model.tokenizer.count(texts)):
                lengths[place] = count + special
        for place, (count, _vector) in known.items():
            lengths[place] = count
        return given, lengths

    def _embed(
        self, inputs: Sequence[str | Sequence[int]], lengths: Sequence[int], wanted: Iterable[int], urgent: bool
    ) -> tuple[Vectors, float]:
        """Vectors in order, shape (inputs, dimensions), of those wanted, by forward passes of inputs of like length, and
        the seconds that these took."""
        spent = 0.0
        vectors = np.empty((len(inputs), self.model.dimensions), np.float32)
        order = sorted(wanted, key=lengths.__getitem__)
        start = 0
        ends = np.cumsum([lengths[place] for place in order])
        while start < len(order):
            done = int(ends[start - 1]) if start else 0
            stop = max(int(np.searchsorted(ends, done + self._pace.budget, "right")), start + 1)
            part = order[start:stop]
            with self._gate.hold(urgent):
                began = time.perf_counter()
                vectors[part] = self.model.embed([inputs[place] for place in part])
                seconds = time.perf_counter() - began
                self._pace.took(int(ends[stop - 1]) - done, seconds)
            self._meter.forward(self.model.name, len(part), seconds)
            start, spent = stop, spent + seconds
        return vectors, spent


def _rows(vectors: Vectors, places: list[int]) -> Vectors:
    """Rows of a matrix. One row is looked at where it is: a copy costs ten times as much."""
    return vectors[places] if len(places) > 1 else vectors[places[0] : places[0] + 1]


class Pool:
    """Models by name. A model is loaded when it is first asked for."""

    def __init__(self, threads: int, request_tokens: int = ENGINE.request_tokens, meter: Meter = UNMETERED) -> None:
        self._request_tokens = request_tokens
        self._meter = meter
        self._makers: dict[str, Callable[[], Model]] = {name: partial(load, name, threads) for name in offered()}
        self._runners: dict[str, Runner] = {}
        self._failed: dict[str, str] = {}  # why, by the model
        self._gate = Gate()
        self._lock = threading.Lock()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._makers)

    def add(self, name: str, make: Callable[[], Model]) -> None:
        """One more model; `make` loads it."""
        self._makers[name] = make

    def runner(self, name: str) -> Runner:
        """Raises RefusedError: 404 for an unknown name, 500 for a model that cannot be loaded. Why is the log's to say."""
        try:
            return self.load(name)
        except RefusedError:
            raise
        except (*FAILURES, OSError) as error:
            self._tell(name, error)
            message = f"The model '{name}' cannot be loaded; the engine's log says why."
            raise RefusedError(500, "model_unavailable", message, param="model") from error

    def load(self, name: str) -> Runner:
        """As `runner`, but raises what the model raises, such as ModelError."""
        if name not in self._makers:
            message = f"The model '{name}' does not exist here; there are: {', '.join(self.names)}."
            raise RefusedError(404, "model_not_found", message, param="model")
        with self._lock:
            if name not in self._runners:
                self._runners[name] = Runner(self._makers[name](), self._gate, self._request_tokens, self._meter)
            return self._runners[name]

    def _tell(self, name: str, error: Exception) -> None:
        """Once, not at every request; anew where the reason is another."""
        if self._failed.get(name) == str(error):
            return
        self._failed[name] = str(error)
        hint = error.hint if isinstance(error, EmbedfillError) else None
        logs.error("model cannot be loaded", model=name, reason=f"{type(error).__name__}: {error}", hint=hint)
