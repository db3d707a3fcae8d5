"""How a long call tells where it stands: a protocol with a silent implementation. Rendering is the command line's."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol


class Stage(Protocol):
    def advance(self, amount: int) -> None:
        """So much more of the stage's unit is done."""


class Progress(Protocol):
    def stage(self, name: str, total: int | None, unit: str) -> AbstractContextManager[Stage]:
        """A stage begins; it ends with the context."""

    def note(self, message: str) -> None:
        """One line that a user should see."""


@dataclass(slots=True)
class Steps:
    """Turns a word on how much is done, which may fall back, into a stage's steps."""

    stage: Stage
    shown: int = 0

    def see(self, done: int) -> None:
        if done > self.shown:
            self.stage.advance(done - self.shown)
            self.shown = done


class _Silent:
    def advance(self, amount: int) -> None:
        pass


class Quiet:
    """Says nothing."""

    def stage(self, name: str, total: int | None, unit: str) -> AbstractContextManager[Stage]:
        return nullcontext(_Silent())

    def note(self, message: str) -> None:
        pass
