"""Opens a store by its URL, and finds out what it is: whether it is safe to share, and which store it is."""

import re
import secrets
from contextlib import suppress
from pathlib import Path

import orjson

from embedfill.errors import ConfigError, MissingError, StoreError, UsageError
from embedfill.ids import canonical
from embedfill.store import layout
from embedfill.store.base import Store, check_key
from embedfill.store.local import LocalStore
from embedfill.store.memory import MemoryStore

_CLOUD = {"s3": "s3", "gs": "gs", "gcs": "gs", "az": "az", "azure": "az", "abfs": "abfs", "abfss": "abfss"}
_ALLOWED = "a directory, or a URL that begins with " + ", ".join(f"{scheme}://" for scheme in (*_CLOUD, "memory"))

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_CONTAINER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?:@[A-Za-z0-9.-]+)?")  # abfs://container@account.example/prefix


def open_store(url: str) -> Store:
    """The store of that URL (`Config.store_url`): a directory, `memory://`, or a bucket's prefix.

    Raises ConfigError for any other scheme or a URL with credentials, UsageError where the extra is not installed.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return LocalStore(Path(url))
    if scheme == "memory":
        return MemoryStore()
    if scheme not in _CLOUD:
        raise ConfigError("store", f"{scheme}://...", _ALLOWED)
    _check_place(scheme, rest)
    try:
        from embedfill.store.cloud import CloudStore
    except ModuleNotFoundError as error:
        raise UsageError(f"a store in {scheme}:// needs {error.name}", 'pip install "embedfill[s3]"') from None
    return CloudStore(f"{_CLOUD[scheme]}://{rest}")


def probe(store: Store) -> None:
    """Makes sure that two writers cannot both create one key; without that nothing here may be shared.

    Raises StoreError when they can. Leaves nothing behind where it may delete.
    """
    key = layout.probe(secrets.token_hex(16))
    first = store.create(key, b"first")
    second = store.create(key, b"second")
    held = store.read(key)
    with suppress(StoreError):
        store.delete(key)
    if (first, second, held) != (True, False, b"first"):
        raise StoreError(
            f"{store.url} does not honour create-if-absent (If-None-Match): refusing to use it as a store",
            "two runs would overwrite each other's records there; use a service with conditional writes, or a directory",
        )


def identity(store: Store) -> str:
    """The id of the store, 32 hexadecimal digits; made at first use, and the same for all who come then.

    Raises StoreError for a store of a newer format, or one whose record cannot be understood.
    """
    held = _held(store)
    if held is None:
        store.create(layout.STORE, canonical({"id": secrets.token_hex(16), "format": layout.FORMAT}))
        held = store.read(layout.STORE)
    try:
        record = orjson.loads(held)
        name, version = str(record["id"]), int(record["format"])
    except (ValueError, KeyError, TypeError):
        raise StoreError(f"{store.url}: {layout.STORE} is damaged", "is this the right place?") from None
    if version > layout.FORMAT:
        raise StoreError(
            f"{store.url} has format {version}; this embedfill knows formats up to {layout.FORMAT}",
            "upgrade: pip install --upgrade embedfill",
        )
    return name


def _held(store: Store) -> bytes | None:
    with suppress(MissingError):
        return store.read(layout.STORE)
    return None


def _check_place(scheme: str, rest: str) -> None:
    """Refuses what is no bucket and prefix, above all a URL with credentials or a query; does not repeat it."""
    bucket, _, prefix = rest.rstrip("/").partition("/")
    pattern = _CONTAINER if scheme.startswith("abfs") else _BUCKET
    try:
        check_key(prefix or "none")
        if pattern.fullmatch(bucket):
            return
    except ValueError:
        pass
    allowed = "a bucket and a prefix of letters, digits and ._=-; credentials belong in the environment"
    raise ConfigError("store", f"{scheme}://...", allowed)
