"""Takes refusals back, so that texts which were rejected go out once more. Sends nothing, and removes no refusal.

An object says of each text how many of its refusals are forgiven; it is never changed. Of several objects the largest
number counts, so to forgive the same twice, or from two places at once, is to forgive it once.
"""

from collections.abc import Mapping

from embedfill import ids
from embedfill.store import layout
from embedfill.tracker.state import State

_TEXTS = 50_000  # of one object, which is made whole


def forgiven(state: State) -> dict[bytes, int]:
    """How many refusals of each text are forgiven, by text id."""
    found: dict[bytes, int] = {}
    for key in forgiven_keys(state):
        for name, count in state.cache.json(key)["forgiven"].items():
            text_id = bytes.fromhex(name)
            found[text_id] = max(count, found.get(text_id, 0))
    return found


def forgiven_keys(state: State) -> list[str]:
    """The objects of the space that forgive something, in key order: equal keys, equal meaning."""
    return [entry.key for entry in state.store.list(layout.forgiven(state.space))]


def forgive(state: State, counts: Mapping[bytes, int]) -> None:
    """Forgives that many refusals of each text: all that it has, as the caller knows them."""
    every = sorted((text_id.hex(), count) for text_id, count in counts.items())
    for start in range(0, len(every), _TEXTS):
        data = ids.canonical({"forgiven": dict(every[start : start + _TEXTS])})
        state.store.create(layout.forgiven(state.space, ids.digest_hex("forgiven", data)), data)
