"""Progress on stderr: a bar with rate and remaining time on a terminal, one plain line a stage elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from embedfill.cli.common import say
from embedfill.progress import Stage

_QUIET_S = 2.0
_SHOW_AFTER_S = 0.5


class _Bar:
    def __init__(self, bar: "tqdm[None]") -> None:
        self._bar = bar
        self.done = 0

    def advance(self, amount: int) -> None:
        self.done += amount
        self._bar.update(amount)


class Console:
    """Stages shorter than two seconds leave no trace where there is no terminal."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()

    @contextmanager
    def stage(self, name: str, total: int | None, unit: str) -> Iterator[Stage]:
        start = time.monotonic()
        with tqdm(
            desc=name, total=total, unit=f" {unit}", file=sys.stderr, disable=not self._terminal, leave=False,
            unit_scale=True, dynamic_ncols=True, delay=_SHOW_AFTER_S,
        ) as bar:  # fmt: skip
            shown = _Bar(bar)
            yield shown
        took = time.monotonic() - start
        if took >= _QUIET_S:
            rate = f", {shown.done / took:,.0f} a second" if shown.done else ""
            self.note(f"{name}: {shown.done:,} {unit} in {took:.1f} s{rate}")

    def note(self, message: str) -> None:
        say(message)
