"""What a space's outcomes and batch references say, read once and kept together in the cache. Decides nothing: what
stands is told by the store's listings, and where the cache is damaged everything is read from the store again.
"""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import fields
from operator import attrgetter
from typing import Any, TypeVar

from embedfill import ids
from embedfill.errors import StoreError
from embedfill.records import Outcome
from embedfill.store.base import Store
from embedfill.store.cache import Cache, parse_json

Value = TypeVar("Value")
_FIELDS = [field.name for field in fields(Outcome)]
_PLAIN = [name for name in _FIELDS if name not in ("packs", "errors", "anomalies")]
_plain = attrgetter(*_PLAIN)
_SAVE_AFTER = 64  # objects read: fewer are read again sooner than all are written
_READERS = 16  # of a bucket, at once


class Memory:
    """Readings of objects that never change. `outcomes` and `references` read what is new of the keys they are given."""

    def __init__(self, store: Store, cache: Cache, space: str) -> None:
        self.store = store
        self.cache = cache
        self._name = f"settled/{space}"
        self._outcomes: dict[str, Outcome] | None = None  # of an earlier process; None: not looked for yet
        self._references: dict[str, str | None] = {}
        self._unsaved = 0

    def outcomes(self, keys: Iterable[str]) -> dict[str, Outcome]:
        """The outcomes of these keys, in their order. Raises StoreError naming an object that is damaged."""
        known, wanted = self._load(), list(keys)
        new = self._read([key for key in wanted if key not in known], _outcome)
        return {key: new[key] if key in new else known.pop(key) for key in wanted}

    def references(self, keys: Iterable[str]) -> dict[str, str | None]:
        """The batches that these references name, None for void. Those of other keys are forgotten."""
        self._load()
        known, wanted = self._references, list(keys)
        new = self._read([key for key in wanted if key not in known], _batch_id)
        self._references = {key: new[key] if key in new else known[key] for key in wanted}
        return self._references

    def save(self, outcomes: dict[str, Outcome]) -> None:
        """Keeps the readings for the next process where enough of them are new. `outcomes` are all that stand."""
        if self._unsaved < _SAVE_AFTER:
            return
        kept = {"fields": _FIELDS, "outcomes": _columns(outcomes), "references": self._references}
        with suppress(StoreError):  # who only looks need not be able to write here
            self.cache.remember(self._name, {"kept": kept, "digest": _digest(kept)})
        self._unsaved = 0

    def _load(self) -> dict[str, Outcome]:
        """What an earlier process kept. A copy of the spending record must not be off by a digit: it is checked."""
        if self._outcomes is None:
            self._outcomes = {}
            fact = self.cache.recall(self._name)
            whole = (
                isinstance(fact, dict) and fact.keys() == {"kept", "digest"} and _digest(fact["kept"]) == fact["digest"]
            )
            if whole and fact["kept"]["fields"] == _FIELDS:
                self._outcomes = _outcomes(fact["kept"]["outcomes"])
                self._references = fact["kept"]["references"]
        return self._outcomes

    def _read(self, keys: list[str], parse: Callable[[str, bytes], Value]) -> dict[str, Value]:
        self._unsaved += len(keys)
        if len(keys) < _READERS or self.store.local_path(keys[0]) is not None:
            return {key: parse(key, self.store.read(key)) for key in keys}
        with ThreadPoolExecutor(_READERS) as pool:  # each answer of a bucket takes its time on the way
            return {key: parse(key, data) for key, data in zip(keys, pool.map(self.store.read, keys), strict=True)}


def _digest(kept: object) -> str:
    return ids.digest_hex("kept", ids.canonical(kept))


def _columns(outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """A list for each field, and few objects in them: what is made of many small ones takes three times as long to read."""
    values = outcomes.values()
    return {
        "keys": list(outcomes),
        "plain": list(zip(*map(_plain, values), strict=True)),
        "packs": [" ".join(outcome.packs) for outcome in values],
        "errors": [outcome.errors or None for outcome in values],
        "anomalies": [outcome.anomalies or None for outcome in values],
    }


def _outcomes(columns: dict[str, Any]) -> dict[str, Outcome]:
    by_name = dict(zip(_PLAIN, columns["plain"], strict=False))
    by_name["packs"] = map(tuple, map(str.split, columns["packs"]))
    by_name["errors"] = (tuple(errors or ()) for errors in columns["errors"])
    by_name["anomalies"] = (anomalies or {} for anomalies in columns["anomalies"])
    made = map(Outcome, *(by_name[name] for name in _FIELDS)) if columns["keys"] else iter(())
    return dict(zip(columns["keys"], made, strict=True))


def _outcome(key: str, data: bytes) -> Outcome:
    value = parse_json(key, data)
    try:
        return Outcome(**{**value, "packs": tuple(value["packs"]), "errors": tuple(value["errors"])})
    except (TypeError, KeyError) as error:
        hint = "bring it back from a backup, or upgrade embedfill if a newer one wrote it"
        raise StoreError(f"the store's object {key} is no outcome: {error}", hint) from None


def _batch_id(key: str, data: bytes) -> str | None:
    value: str | None = parse_json(key, data)["batch_id"]
    return value
