"""Who is served next: fair shares between keys and between models, and which batches may be open. Runs nothing.

Fair means by what was given, not by what is asked for: fifty batches of one owner get as much as one of another. The
shares are those of start-time fair queueing (Goyal, Vin and Cheng, 1996): each taker has a clock that runs with what it
is given, the one that is furthest behind goes next, and whoever comes, or comes back, starts at the time of those who
are there. So nobody starves, and nobody saves up.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from typing import Generic, TypeVar

from embedfill.engine.state.batches import Active

Key = TypeVar("Key", bound=Hashable)
_TURNS = 4  # of each owner in one window, about
_FIRST_PER_BYTE = 1e-6  # until there was a window
_MEMORY = 0.9  # of what was before, after one window more


class Shares(Generic[Key]):
    """Equal shares of anything that is counted: seconds, bytes, tokens."""

    def __init__(self) -> None:
        self.clocks: dict[Key, float] = {}  # also of some who are not here; they may come back
        self._here: set[Key] = set()
        self._now = 0.0

    def present(self, keys: Collection[Key]) -> None:
        """These want something now, and no others."""
        staying = self._here.intersection(keys)
        if staying:
            self._now = max(self._now, min(self.clocks[key] for key in staying))
        elif self._here:
            self._now = max(self._now, *self.clocks.values())
        for key in (key for key in keys if key not in staying):
            self.clocks[key] = max(self.clocks.get(key, 0.0), self._now)
        self._here = set(keys)
        self.clocks = {key: clock for key, clock in self.clocks.items() if key in self._here or clock > self._now}

    def first(self, among: Iterable[Key]) -> Key:
        """The one that is furthest behind."""
        wanted = set(among)
        return next(key for key in self.order() if key in wanted)

    def order(self) -> list[Key]:
        """Those who are here, the one that is furthest behind first; of two, the one that was here before."""
        return sorted((key for key in self.clocks if key in self._here), key=self.clocks.__getitem__)

    def charge(self, key: Key, amount: float) -> None:
        """This much was given to one of those who are here."""
        self.clocks[key] += amount


class Rate:
    """Seconds that a byte took of late. One window that took long, on a busy machine, does not say much."""

    def __init__(self) -> None:
        self._seconds = self._bytes = 0.0

    @property
    def per_byte(self) -> float:
        return self._seconds / self._bytes if self._bytes else _FIRST_PER_BYTE

    def took(self, size: int, seconds: float) -> None:
        self._seconds = _MEMORY * self._seconds + seconds
        self._bytes = _MEMORY * self._bytes + size


class Schedule:
    """Seconds of one worker, shared by owners; those of an owner by its models. What an owner is charged with is what
    its bytes usually take, so that the owners of one model get the same number of bytes."""

    def __init__(self) -> None:
        self._owners: Shares[str] = Shares()
        self._models: Shares[str] = Shares()
        self._rates: defaultdict[str, Rate] = defaultdict(Rate)

    def model(self, wants: Mapping[str, Collection[str]]) -> str:
        """What to run next. `wants` has the models of each owner that wants something, and is not empty."""
        self._owners.present(wants.keys())
        self._models.present(dict.fromkeys(model for models in wants.values() for model in models))
        return self._models.first(wants[self._owners.first(wants)])

    def window(self, model: str, owners: Iterable[str], budget: int) -> "Window":
        """The shares that these owners have in the model's next window, of `budget` bytes."""
        return Window({owner: self._owners.clocks[owner] for owner in owners}, budget, self._rates[model].per_byte)

    def took(self, model: str, window: "Window", seconds: float) -> None:
        """The window is through."""
        rate = self._rates[model]
        rate.took(sum(window.served.values()), seconds)
        self._models.charge(model, seconds)
        for owner, served in window.served.items():
            self._owners.charge(owner, served * rate.per_byte)


class Window:
    """Bytes of one window, dealt out in turns, so that the clocks of the owners come together."""

    def __init__(self, clocks: dict[str, float], budget: int, per_byte: float) -> None:
        self.left = budget
        self.served: dict[str, int] = {}
        self._clocks = clocks
        self._per_byte = per_byte
        self._turn = max(budget // (_TURNS * len(clocks)), 1) if len(clocks) > 1 else budget

    def next(self) -> tuple[str, int] | None:
        """Whose turn it is and how many bytes it is good for; a line begun is taken whole. None where all is dealt."""
        if self.left <= 0 or not self._clocks:
            return None
        return min(self._clocks, key=self._clocks.__getitem__), min(self._turn, self.left)

    def took(self, owner: str, size: int, dry: bool) -> None:
        """It took this much, and has nothing more where it is `dry`."""
        self.left -= size
        self.served[owner] = self.served.get(owner, 0) + size
        self._clocks[owner] += size * self._per_byte
        if dry:
            del self._clocks[owner]


def admitted(batches: Iterable[Active], most: int, is_open: Callable[[Active], bool]) -> list[Active]:
    """At most so many of the batches, by deadline: the nearest one of each owner and model first, so that nobody's many
    keep out another's one; then those that are open already; then by their place in the line of their owner and model."""
    ranks: dict[tuple[str, str | None], int] = {}
    ranked: list[tuple[bool, bool, int, int, int, Active]] = []
    for batch in by_deadline(batches):
        line = (batch.owner, batch.model)
        rank = ranks[line] = ranks.get(line, -1) + 1
        ranked.append((rank > 0, rank > 0 and not is_open(batch), rank, batch.expires_at, batch.seq, batch))
    ranked.sort(key=lambda entry: entry[:-1])
    return by_deadline(entry[-1] for entry in ranked[:most])


def by_deadline(batches: Iterable[Active]) -> list[Active]:
    """The nearest deadline first, and the older of two with the same."""
    return sorted(batches, key=lambda batch: (batch.expires_at, batch.seq))
