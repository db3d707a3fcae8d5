"""Whose request it is: each key is an owner of its own, and sees only what it made. Keys are kept as hashes.

What was made while the engine asked for no key has the owner `ANYBODY`, and every key sees it.
"""

import hashlib
import hmac
from collections.abc import Mapping

from pydantic import SecretStr

ANYBODY = ""
SEEN = f"owner IN ('{ANYBODY}', ?)"  # a condition of SQL, with one value: who asks


class Owners:
    """The keys that are let in. None at all: everybody is, as `ANYBODY`."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        """`keys`: the SHA-256 of each key, in hex, by the name of its owner."""
        self._digests = {name: bytes.fromhex(digest) for name, digest in keys.items()}

    def find(self, authorization: str) -> str | None:
        """The owner that an Authorization header proves; None where it proves nobody. Takes as long for every key."""
        if not self._digests:
            return ANYBODY
        scheme, _, given = authorization.partition(" ")
        digest = hashlib.sha256(given.strip().encode()).digest()
        found = [name for name, known in self._digests.items() if hmac.compare_digest(known, digest)]
        return found[0] if found and scheme.lower() == "bearer" else None


def digest_of(key: SecretStr) -> str:
    """The SHA-256 of a key in hex: all that is kept of it, and the name of an owner that was given none."""
    return hashlib.sha256(key.get_secret_value().encode()).hexdigest()
