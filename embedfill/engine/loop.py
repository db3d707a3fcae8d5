"""A thread that does one step after the other, and rests when there is nothing to do. Knows no work of its own."""

import threading
from collections.abc import Callable
from pathlib import Path

from embedfill.engine import room
from embedfill.engine.telemetry import logs

_RETRY_S = 1.0


class Loop:
    """`step` returns whether it did something; after one that did not, the loop rests until woken, or for `rest_s`. `data`:
    what it writes to; a step that fails because that cannot be written is one that can be done again: the loop tries it
    until it can, and is `waiting` meanwhile."""

    def __init__(self, name: str, step: Callable[[], bool], rest_s: float, data: Path | None = None) -> None:
        self.name = name
        self.waiting = False
        self._data = data
        self._step = step
        self._rest_s = rest_s
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.stopping = threading.Event()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        self._wake.set()

    def quiesce(self) -> None:
        """The step in hand is the last one. Does not wait for its end."""
        self.stopping.set()
        self._wake.set()

    def stop(self, timeout_s: float) -> bool:
        """Lets the step in hand end, for at most `timeout_s`; whether it did."""
        self.quiesce()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self.stopping.is_set():
            self._wake.clear()
            if not (self._step() if self._data is None else self._patiently(self._data)):
                self._wake.wait(min(self._rest_s, _RETRY_S) if self.waiting else self._rest_s)

    def _patiently(self, data: Path) -> bool:
        try:
            did = self._step()
        except room.FAILURES as error:
            number = room.cause(error)
            if number is None:
                raise
            if not self.waiting:
                hint = f"{room.remedy(number, data)}; the work goes on by itself then"
                logs.warning("waiting for room", thread=self.name, message=room.message(number, data), hint=hint)
            self.waiting = True
            return False
        if self.waiting:
            logs.warning("there is room again", thread=self.name)
        self.waiting = False
        return did
