"""What in a store nothing refers to any more. Only looks: `prune.py` removes.

Nothing that was paid for is ever a leftover: vectors that an outcome names, outcomes, claims, batch references, plans and
publications. Neither is what is younger than the grace, pinned by a run, or part of one of the newest publications.

Two kinds need more than a look at references, since a killed run's successor may put the very same object again without
writing it. A *shard* belongs to one plan number: once a later plan than the object stands, nobody can plan it any more. A
*pack* comes of an open shard: where a space has none, no outcome can name what none names yet. Where the records of a
space are lost its packs are kept: somebody paid for them.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from embedfill.errors import MissingError
from embedfill.records import Catalog, Snapshot
from embedfill.store import layout
from embedfill.store.base import Entry, Store
from embedfill.store.cache import Cache, parse_json
from embedfill.tracker.state import State, spaces, store_time

_PIN_S = 2 * 86_400.0  # a run renews its pins each day
_TRANSIENT_S = 3_600.0  # of objects that are made to be removed at once
_TRANSIENT = ("clock", "probes")


@dataclass(slots=True)
class Leftovers:
    """One look at a store. `now` is the store's own time. `keep` publications are kept whole, with those that are younger
    than the grace."""

    store: Store
    cache: Cache
    grace_s: float
    keep: int
    now: float = 0.0
    entries: dict[str, Entry] = field(default_factory=dict)  # all that may be removed at all

    def find(self) -> dict[str, Entry]:
        """The leftovers, in the order in which they may be removed."""
        self.now = store_time(self.store)
        self.entries = {e.key: e for kind in layout.PRUNABLE for e in _seen(self.store.list(f"{kind}/"))}
        kept = self._kept()
        return {key: entry for key, entry in self.entries.items() if key not in kept and self._is_old(entry)}

    def states(self) -> list[State]:
        """The state of every space that has plans."""
        return [State(self.store, self.cache, space).refresh() for space in spaces(self.store)]

    def _is_old(self, entry: Entry) -> bool:
        kind = layout.kind_of(entry.key)
        floor = _PIN_S if kind == "pins" else _TRANSIENT_S if kind in _TRANSIENT else 0.0
        return self.now - entry.modified >= max(self.grace_s, floor)

    def _kept(self) -> set[str]:
        roots = {*self._published(), *self._pinned()}
        roots |= {e.key for e in self.entries.values() if _refers(e.key) and not self._is_old(e)}
        kept = self._closure(roots)
        states = {state.space: state for state in self.states()}
        for state in states.values():
            kept |= self._of_space(state)
        of_spaces = [key for kind in ("shards", "packs", "refusals") for key in self._of(kind)]
        return kept | {key for key in of_spaces if layout.space_of(key) not in states}

    def _published(self) -> list[str]:
        entries = list(self.store.list(layout.PUBLISHED))
        newest = entries[max(0, len(entries) - self.keep) :]
        fresh = [entry for entry in entries if self.now - entry.modified < self.grace_s]
        keys = {entry.key for entry in (*newest, *fresh)}
        return [layout.snapshot(str(self._json(key)["snapshot"])) for key in keys]

    def _pinned(self) -> Iterable[str]:
        for key in self._of("pins"):
            if not self._is_old(self.entries[key]):
                yield from self._json(key).get("keys", ())

    def _closure(self, roots: set[str]) -> set[str]:
        """The roots with all that they refer to, and what that refers to."""
        kept, fresh = set(roots), {key for key in roots if _refers(key)}
        while fresh:
            found = {part for key in fresh for part in parts_of(key, self._json(key))} - kept
            kept |= found
            fresh = {key for key in found if _refers(key)}
        return kept

    def _of_space(self, state: State) -> set[str]:
        """What the records of a space keep."""
        kept = {shard.shard.key for shard in state.shards.values()}
        last = max((e.modified for e in self.store.list(layout.plan(state.space))), default=0.0)
        kept |= {key for key in self._of("shards", state.space) if self.entries[key].modified >= last}
        for outcome in state.outcomes.values():
            kept.update(*((pack, layout.pack_ids(pack)) for pack in outcome.packs))
            kept.update(filter(None, [outcome.refusals]))
        if state.open() or not state.outcomes:
            kept.update(*(self._of(kind, state.space) for kind in ("packs", "refusals")))
        return kept

    def _of(self, kind: str, space: str = "") -> list[str]:
        prefix = f"{kind}/{space}/" if space else f"{kind}/"
        return [key for key in self.entries if key.startswith(prefix)]

    def _json(self, key: str) -> Any:  # noqa: ANN401 - what the object holds
        """Read from the store: a copy in the cache may outlive it. One that is gone refers to nothing."""
        try:
            return parse_json(key, self.store.read(key))
        except MissingError:
            return {}


def _seen(entries: Iterable[Entry]) -> Iterator[Entry]:
    """With size and time as they are now: a store may look for them only when asked, and by then another prune may have
    removed the object."""
    for entry in entries:
        with suppress(MissingError):
            yield Entry(entry.key, entry.size, entry.modified)


def parts_of(key: str, value: Any) -> Iterable[str]:  # noqa: ANN401
    """Keys of the objects that a snapshot or a catalog of that content names itself."""
    if not value:
        return
    if layout.kind_of(key) == "snapshots":
        yield layout.catalog(value["catalog"])
        yield from value["index"]["files"].values()
        yield from value["packs"]
    else:
        yield from (*value["documents"], *value["chunks"])
        yield from filter(None, [value["rejections"]])


def catalog_keys(name: str, catalog: Catalog) -> set[str]:
    """Keys of a catalog and all that it names."""
    return {layout.catalog(name), *parts_of(layout.catalog(name), asdict(catalog))}


def snapshot_keys(name: str, snapshot: Snapshot) -> set[str]:
    """Keys of a snapshot and what it names itself."""
    return {layout.snapshot(name), *parts_of(layout.snapshot(name), asdict(snapshot))}


def _refers(key: str) -> bool:
    return layout.kind_of(key) in ("snapshots", "catalogs")
