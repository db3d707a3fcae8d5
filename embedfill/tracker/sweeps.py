"""How what prune removes and what others are at work with keep clear of each other. Removes nothing itself.

A run *pins* what it will refer to, then looks whether a *sweep* is at work, and then whether all of it is still there. A
sweep leaves its mark first, and lists pins and references after that. So of the two one always sees the other: a pin that
stood before the references were listed is respected, and a sweep that began before a pin is waited for.
"""

import secrets
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

import orjson

from embedfill import ids
from embedfill.clock import Clock
from embedfill.errors import MissingError
from embedfill.records import Maker
from embedfill.store import layout
from embedfill.store.base import Entry, Store
from embedfill.store.cache import parse_json
from embedfill.tracker.maker import is_dead, this_maker
from embedfill.tracker.state import store_time

SWEEP_S = 1800.0  # of the store's time, after which a sweep stops by itself
_OVER_S = 2 * SWEEP_S  # so one whose mark is that old is over, whoever made it
_PAUSE_S = 0.2
_DAY_S = 86_400


@contextmanager
def sweeping(store: Store, lists: Iterable[int]) -> Iterator[Callable[[], bool]]:
    """Marks a sweep of these lists of doomed objects. Gives what tells whether it may still go on."""
    mark = layout.sweep(secrets.token_hex(8))
    store.create(mark, ids.canonical({"lists": sorted(lists), "maker": asdict(this_maker())}))
    began = store_time(store)
    try:
        yield lambda: store_time(store) - began < SWEEP_S
    finally:
        store.delete(mark)


def at_work(store: Store, keys: Collection[str] | None = None) -> bool:
    """Whether a sweep is at work that may remove one of these objects (None: any)."""
    marks = list(store.list(layout.sweep()))
    return bool(marks) and any(_threatens(store, mark, keys) for mark in marks)


def _threatens(store: Store, mark: Entry, keys: Collection[str] | None) -> bool:
    try:
        value = parse_json(mark.key, store.read(mark.key))
        if is_dead(Maker(**value["maker"])) or store_time(store) - mark.modified > _OVER_S:
            return False
    except MissingError:
        return False  # it has ended just now
    return keys is None or any(not _spares(store, number, keys) for number in value["lists"])


def _spares(store: Store, number: int, keys: Collection[str]) -> bool:
    try:
        doomed = orjson.loads(store.read(layout.doomed(number)))["keys"]
    except MissingError:
        return True  # it is done with
    return set(doomed).isdisjoint(keys)


@dataclass(slots=True)
class Pins:
    """The pins of one run."""

    store: Store
    clock: Clock = field(default_factory=Clock)
    made: list[str] = field(default_factory=list)

    def hold(self, keys: Collection[str]) -> set[str]:
        """Pins these objects, waits for a sweep that is at them, and returns those that are gone: they are to be
        made anew."""
        data = ids.canonical({"keys": sorted(keys)})
        pin = layout.pin(f"{ids.digest_hex('pin', data)}-{int(time.time()) // _DAY_S}")  # one a day, however many runs
        self.store.create(pin, data)
        self.made.append(pin)
        while at_work(self.store, keys):
            self.clock.sleep(_PAUSE_S)
        return absent(self.store, keys)

    def release(self) -> None:
        """Once something lasting refers to what was pinned: other runs may have pinned the same."""
        while self.made:
            self.store.delete(self.made.pop())


def absent(store: Store, keys: Iterable[str]) -> set[str]:
    """Those of these objects that the store does not have; a listing for each of their folders."""
    wanted = set(keys)
    folders = {key.rpartition("/")[0] + "/" for key in wanted}
    return wanted - {entry.key for folder in folders for entry in store.list(folder)}
