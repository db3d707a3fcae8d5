"""What the engine's parts tell of their work, for whoever counts it. Counts nothing itself, and holds nothing."""

from typing import Protocol


class Meter(Protocol):
    """Told of work that is done. Called from any thread; never blocks, never raises. Names are of the configuration
    (a model of ours, the pattern of a route), never of a client."""

    def forward(self, model: str, inputs: int, seconds: float) -> None:
        """A local model embedded so many inputs in one go."""

    def commit(self, changes: int, seconds: float) -> None:
        """The database wrote so many changes in one transaction."""

    def lines(self, completed: int, failed: int, input_tokens: int, output_tokens: int) -> None:
        """So many lines of batches have results, on disk."""

    def upstream(self, route: str, outcome: str, seconds: float) -> None:
        """Another server was asked. `outcome`: its status, or why there is none, in one word."""

    def batch(self, batch_id: str, status: str) -> None:
        """A batch has come to this status, on disk."""

    def webhook(self, event: str, outcome: str) -> None:
        """A webhook was told, or one try of that failed. `outcome`: a status, or one word."""


class Unmetered:
    """Nobody counts."""

    def forward(self, model: str, inputs: int, seconds: float) -> None: ...
    def commit(self, changes: int, seconds: float) -> None: ...
    def lines(self, completed: int, failed: int, input_tokens: int, output_tokens: int) -> None: ...
    def upstream(self, route: str, outcome: str, seconds: float) -> None: ...
    def batch(self, batch_id: str, status: str) -> None: ...
    def webhook(self, event: str, outcome: str) -> None: ...


UNMETERED = Unmetered()
