"""Time as a waiting program sees it: seconds that only grow, and a way to let some pass. Tests put another one in."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clock:
    """`now` gives monotonic seconds, `sleep` waits for some."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
