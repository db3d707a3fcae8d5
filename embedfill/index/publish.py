"""Snapshots and publications: which index is current, and how the next one takes its place. Builds no index."""

from dataclasses import asdict, dataclass
from typing import Any

from embedfill import ids
from embedfill.records import Counts, IndexManifest, Snapshot, Space
from embedfill.store import layout
from embedfill.store.base import Store
from embedfill.store.cache import Cache, parse_json


@dataclass(frozen=True, slots=True)
class Publication:
    """The newest publication. `number` is 0 where nothing has been published."""

    number: int
    name: str
    snapshot: Snapshot | None


def current(store: Store, cache: Cache) -> Publication:
    """The newest publication with its snapshot. Never cached: it decides what a search sees."""
    newest = ""
    for entry in store.list(layout.PUBLISHED):
        newest = entry.key
    if not newest:
        return Publication(0, "", None)
    name = parse_json(newest, store.read(newest))["snapshot"]
    return Publication(layout.number_of(newest), name, load(cache, name))


def save(store: Store, snapshot: Snapshot) -> str:
    """Writes a snapshot under its content's name, which it returns."""
    data = ids.canonical(asdict(snapshot))
    name = ids.digest_hex("snapshot", data)
    store.create(layout.snapshot(name), data)
    return name


def load(cache: Cache, name: str) -> Snapshot:
    """The snapshot of that name. Raises MissingError."""
    value = cache.json(layout.snapshot(name))
    nested = {
        "space": Space(**value["space"]),
        "index": IndexManifest(**value["index"]),
        "counts": Counts(**value["counts"]),
    }
    return Snapshot(**{**value, **nested, "packs": tuple(value["packs"])})


def publish(store: Store, name: str, parent: int) -> bool:
    """Makes a snapshot the current one. False where another was published since `parent`: compute anew."""
    publication = {"snapshot": name, "parent": parent}
    return store.create(layout.published(parent + 1), ids.canonical(publication))


def content_of(catalog: str, packs: list[str], space: Space, index: Any, query_template: str) -> str:  # noqa: ANN401
    """The hash of all that decides a snapshot: corpus, vectors, space and index settings."""
    parts = [catalog, packs, asdict(space), index.model_dump(), query_template, layout.FORMAT]
    return ids.digest_hex("content", ids.canonical(parts))
