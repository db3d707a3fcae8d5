"""One running batch as the worker sees it: the requests that are left, and where their results go. Runs no model."""

import os
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, wait
from contextlib import suppress
from itertools import islice
from typing import Any, NamedTuple

import orjson

from embedfill.batchapi.models import File
from embedfill.engine import room
from embedfill.engine.refusal import envelope
from embedfill.engine.state.batches import Active
from embedfill.engine.state.spool import Name, Result, Spool, Spools
from embedfill.engine.work import embeddings
from embedfill.engine.work.embeddings import Embedded, EmbeddingRequest
from embedfill.engine.work.validate import requests
from embedfill.errors import RefusedError, WorldError

_IN_FLIGHT = 4  # appends that may wait for the disk,
_KEPT_BYTES = 64 << 20  # and what they may take
_DRAWN = 256  # pairs of ids
_ID_DIGITS = 24 + 32
_ready: list[tuple[str, str]] = []


class Item(NamedTuple):
    """One request line that has no result yet. `size` is that of its line, in bytes."""

    line: int
    custom_id: str
    body: dict[str, Any]
    size: int


class Job:
    """Yields each unfinished line once, in file order. `exhausted` once there is none left; `outstanding` says how many
    were taken and have no result yet.

    What is put is kept until it is on disk: where the disk is full it is appended again, by `catch_up` or `settle`."""

    def __init__(self, batch: Active, spools: Spools) -> None:
        self.batch = batch
        self.model = batch.model or ""
        self.exhausted = False
        self.outstanding = 0
        self.spool: Spool = spools.open(batch.id, batch.seq)
        self._rest = self._unfinished(spools)
        self.files: dict[Name, File] = {}  # made of the spool, and of no row yet
        self._kept: deque[tuple[list[Result], int]] = deque()  # what was put and is not known to be on disk; bytes
        self._kept_bytes = 0
        self._appends: deque[Future[None]] = deque()  # of the first of those
        self._cut = False  # an append failed: they all are to be made again
        self._returned: list[Item] = []

    def take(self) -> Item | None:
        """The next unfinished line."""
        item = self._returned.pop() if self._returned else next(self._rest, None)
        self.exhausted = item is None
        self.outstanding += item is not None
        return item

    def give_back(self, item: Item) -> None:
        """A line that was taken was not run after all."""
        self._returned.append(item)
        self.exhausted = False
        self.outstanding -= 1

    def put(self, results: list[Result]) -> None:
        """Appends results; waits while too many of them are not on disk yet. A disk without room is told of later, by
        `catch_up` or `settle`: nobody is to lose the results of other jobs over it."""
        self.outstanding -= len(results)
        size = sum(len(result.text) for result in results)
        self._kept.append((results, size))
        self._kept_bytes += size
        if not self._cut:
            try:
                self._advance(_IN_FLIGHT)
            except room.FAILURES as error:
                if room.cause(error) is None:
                    raise

    def catch_up(self) -> None:
        """Raises where what was put could not be written, and still cannot. No line is to be taken then."""
        self._advance(_IN_FLIGHT)

    def settle(self) -> None:
        """Returns once everything that was put is on disk; raises where it cannot be written."""
        self._advance(0)

    def close(self) -> None:
        wait(self._appends)
        self._rest.close()
        self.spool.close()

    def _advance(self, most: int) -> None:
        """Appends what is kept and was not yet, and waits until no more than `most` appends are open."""
        if self._cut:
            self.spool.rewind()
            self._cut = False
        try:
            for results, _size in list(islice(self._kept, len(self._appends), None)):
                self._appends.append(self.spool.append(results))
            while self._appends and (
                len(self._appends) > most or self._kept_bytes > _KEPT_BYTES or self._appends[0].done()
            ):
                self._appends[0].result()
                self._written()
        except room.FAILURES:
            self._give_way()
            raise

    def _give_way(self) -> None:
        """Forgets the appends from the first that failed on; nothing behind it was recorded."""
        self._cut = True
        wait(self._appends)
        while self._appends and self._appends[0].exception() is None:
            self._written()
        self._appends.clear()
        with suppress(*room.FAILURES):  # what was half written leaves its room to others until the next try
            self.spool.rewind()

    def _written(self) -> None:
        self._appends.popleft()
        self._kept_bytes -= self._kept.popleft()[1]

    def _unfinished(self, spools: Spools) -> Generator[Item, None, None]:
        finished = self.spool.finished()
        path = spools.input(self.batch.id)
        try:
            for line, raw in requests(path):
                if line not in finished:
                    value = orjson.loads(raw)
                    yield Item(line, value["custom_id"], value["body"], len(raw))
        except OSError as error:  # no room would help, and the lines behind it must not be taken for none
            hint = "see that the disk can be read, then start the engine again"
            raise WorldError(f"the input {path} of a batch cannot be read: {error.strerror}", hint) from error


def succeeded(item: Item, request: EmbeddingRequest, answer: Embedded) -> Result:
    """The line of a request that ran."""
    text = _line(item, 200, embeddings.render(request, answer))
    return Result(item.line, "output", text, answer.tokens)


def failed(item: Item, refusal: RefusedError) -> Result:
    """The line of a request that was answered with an error."""
    return Result(item.line, "error", _line(item, refusal.status, envelope(refusal)))


def never_run(item: Item, code: str, message: str) -> Result:
    """The line of a request that was not run, and will not be."""
    name, _request_id = fresh_ids()
    line = {"id": name, "custom_id": item.custom_id, "response": None, "error": {"code": code, "message": message}}
    return Result(item.line, "error", _dumps(line), ran=False)


def _line(item: Item, status: int, body: dict[str, Any]) -> bytes:
    name, request_id = fresh_ids()
    response = {"status_code": status, "request_id": request_id, "body": body}
    return _dumps({"id": name, "custom_id": item.custom_id, "response": response, "error": None})


def _dumps(line: dict[str, Any]) -> bytes:
    return orjson.dumps(line, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)


def fresh_ids() -> tuple[str, str]:
    """Ids, never used before and not to be guessed, of a result line and of the request that it answers. Random bytes
    are drawn for many at once: each time the system is asked costs as much as the rest of a short line."""
    while True:
        try:
            return _ready.pop()  # by one thread, whoever else is here
        except IndexError:
            digits = os.urandom(_DRAWN * _ID_DIGITS // 2).hex()
            starts = range(0, len(digits), _ID_DIGITS)
            _ready.extend(("batch_req_" + digits[at : at + 24], digits[at + 24 : at + _ID_DIGITS]) for at in starts)
