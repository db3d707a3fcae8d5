"""Virtual time: a clock that only moves when somebody waits, so that a day at a provider takes milliseconds.

One clock drives all that tells the time: `clock` goes to Account, Quota and BatchClient, `time` to MemoryStore(now=)
and Provider(time=). Threads that share it make it run faster, never back.
"""

import threading
from collections.abc import Callable

import pytest

from embedfill.clock import Clock
from embedfill.providers import retry

EPOCH = 1_790_000_000.0  # the wall-clock time it starts at


class VirtualClock:
    """Seconds that pass by `sleep` alone. `at` has calls made when a time is reached, in order."""

    def __init__(self, start: float = 1000.0) -> None:
        self._now = start
        self._start = start
        self._lock = threading.Lock()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self.naps = 0

    def now(self) -> float:
        """Monotonic seconds."""
        return self._now

    def time(self) -> float:
        """The wall clock: seconds since 1970."""
        return EPOCH + self._now - self._start

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.naps += 1
            end = self._now + max(0.0, seconds)
        self._reach(end)

    def at(self, seconds: float, call: Callable[[], None]) -> None:
        """Has `call` made after so many seconds from now, when some sleep passes that time."""
        with self._lock:
            self._due.append((self._now + seconds, len(self._due), call))

    @property
    def clock(self) -> Clock:
        return Clock(self.now, self.sleep)

    def _reach(self, end: float) -> None:
        while True:
            with self._lock:
                due = min((one for one in self._due if one[0] <= end), default=None, key=lambda one: one[:2])
                if due is None:
                    self._now = max(self._now, end)
                    return
                self._due.remove(due)
                self._now = max(self._now, due[0])
            due[2]()


@pytest.fixture
def virtual(monkeypatch: pytest.MonkeyPatch) -> VirtualClock:
    """A virtual clock; retries wait by it, and without chance."""
    monkeypatch.setattr(retry, "backoff_s", backoff_s)
    return VirtualClock()


def backoff_s(attempt: int) -> float:
    """As the client's, without its scatter: the same seed is to give the same run."""
    return min(60.0, 0.25 * 2.0 ** (attempt - 1))
