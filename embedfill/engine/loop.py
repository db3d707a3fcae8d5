"""A thread that does one step after the other, and rests when there is nothing to do. Knows no work of its own."""

import threading
from collections.abc import Callable
from pathlib import Path

from embedfill.engine import room
from embedfill.engine.telemetry import logs


class Loop:
    """`step` returns whether it did something; after one that did not, the loop rests until woken, or for `rest_s`."""

    def __init__(self, name: str, step: Callable[[], bool], rest_s: float) -> None:
        self.name = name
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
            if not self._step():
                self._wake.wait(self._rest_s)


def patient(step: Callable[[], bool], data: Path) -> Callable[[], bool]:
    """A step that can be done again, which rests where `data` cannot be written: its loop will try it again."""

    def tried() -> bool:
        try:
            return step()
        except room.FAILURES as error:
            number = room.cause(error)
            if number is None:
                raise
            logs.warning("waiting for room", message=room.message(number, data), hint=room.remedy(number, data))
            return False

    return tried
