"""Whose request it is: each owner sees only what it made, whichever of its keys it comes with. Keys are kept as hashes.

What was made while the engine asked for no key has the owner `ANYBODY`, and every key sees it.
"""

import hashlib
import hmac
from collections.abc import Mapping

from pydantic import SecretStr

ANYBODY = ""
DEFAULT = "default"  # the owner behind a key that has no name: what it made outlives that key
SEEN = f"owner IN ('{ANYBODY}', ?)"  # a condition of SQL, with one value: who asks


class Owners:
    """The keys that are let in. None at all: everybody is, as `ANYBODY`."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        """`keys`: who is behind a key, by its SHA-256 in hex."""
        self._owners = _by_digest(keys)

    def replace(self, keys: Mapping[str, str]) -> None:
        """From the next request on, these are the keys."""
        self._owners = _by_digest(keys)

    def find(self, authorization: str) -> str | None:
        """The owner that an Authorization header proves; None where it proves nobody. Takes as long for every key."""
        owners = self._owners
        if not owners:
            return ANYBODY
        scheme, _, given = authorization.partition(" ")
        # A header's bytes come decoded as Latin-1: encoded so, they are the bytes that were sent.
        digest = hashlib.sha256(given.strip().encode("latin-1", "replace")).digest()
        found = [owner for known, owner in owners if hmac.compare_digest(known, digest)]
        return found[0] if found and scheme.lower() == "bearer" else None


def digest_of(key: SecretStr) -> str:
    """The SHA-256 of a key in hex: all that is kept of it."""
    return hashlib.sha256(key.get_secret_value().encode()).hexdigest()


def _by_digest(keys: Mapping[str, str]) -> list[tuple[bytes, str]]:
    return [(bytes.fromhex(digest), owner) for digest, owner in keys.items()]
