"""A store in S3, Google Cloud Storage or Azure Blob Storage, below a prefix of a bucket, through obstore.

Credentials and endpoints come from the providers' usual environment variables and are never kept here. Whether the
service honours create-if-absent is not known by its name: `probe` in open.py finds out.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import from_url

from embedfill.errors import MissingError, StoreError
from embedfill.store.base import Entry, check_key

_PIECE_BYTES = 16 << 20  # of a download: a request each, so that each is retried and none outlives the timeout
_PART_BYTES = 8 << 20  # of an upload
_MAX_PARTS = 9_000  # S3 takes 10,000
_PARTS_AT_ONCE = 4
_PAGE = 1_000  # keys of a listing handed over at once
_CONFLICT_TRIES = 5  # S3 answers 409 while another writer of the key is at work; the key may then stay free
_TIMEOUTS = {"timeout": "300s", "connect_timeout": "10s"}
_RETRIES: Any = {"max_retries": 6, "retry_timeout": timedelta(seconds=120)}
_PASSED_ON = ("allow_http", "allow_invalid_certificates", "proxy_url", "timeout", "connect_timeout")
_VARIABLES = {"s3": "AWS", "gs": "GOOGLE"}  # Azure otherwise

_BEYOND_END = "status code: 416"  # the answer to a range that begins at or after the object's end

# What the services' words, or those of the HTTP client, come to: a pattern, what is wrong, what to do.
_CAUSES = (
    (
        r"NoSuchBucket|ContainerNotFound|specified bucket does not exist",
        "there is no such bucket",
        "create the bucket, or correct `store` in the configuration",
    ),
    (
        r"InvalidAccessKeyId|SignatureDoesNotMatch|Missing AccessKeyId|ExpiredToken|InvalidToken|AuthenticationFailed"
        r"|status code: 401|169\.254\.169\.254|metadata\.google\.internal",
        "the credentials are missing, or not accepted",
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS, or AZURE_STORAGE_ACCOUNT_KEY",
    ),
    (
        r"PermanentRedirect|AuthorizationHeaderMalformed|redirect without LOCATION|status code: 30[17]",
        "the bucket is in another region",
        "set AWS_REGION to the bucket's region",
    ),
    (
        r"AccessDenied|AuthorizationPermissionMismatch|status code: 403",
        "permission denied",
        "the credentials must be allowed to list, read, write and delete below the store's prefix",
    ),
    (
        r"BadScheme|URL scheme is not allowed",
        "the endpoint is http, not https",
        "set AWS_ALLOW_HTTP=true if that is meant",
    ),
    (
        r"SlowDown|ServerBusy|status code: (?:429|5\d\d)",
        "the service is overloaded or failing",
        "run again later",
    ),
    (
        r"error sending request|timed out|dns error|connection closed|error decoding response",
        "no answer",
        "check the network and the endpoint (AWS_ENDPOINT_URL), then run again",
    ),
)


class CloudStore:
    """A bucket's prefix as a store. Pickles as its URL alone: credentials are taken from the environment again."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        with self._world():
            self._store: Any = from_url(self.url, client_options=_client_options(self.url), retry_config=_RETRIES)

    def __repr__(self) -> str:
        return f"CloudStore({self.url!r})"

    def __reduce__(self) -> tuple[type["CloudStore"], tuple[str]]:
        return CloudStore, (self.url,)

    def create(self, key: str, data: bytes) -> bool:
        for _ in range(_CONFLICT_TRIES):
            if self._put_new(check_key(key), data):
                return True
            with suppress(MissingError):
                return self.read(key) == data
        raise StoreError(f"{self.url}: {key!r} can be neither created nor read", "run again")

    def put_file(self, key: str, path: Path) -> None:
        check_key(key)
        size = path.stat().st_size
        part = max(_PART_BYTES, -(-size // _MAX_PARTS))
        with self._world(key):
            obstore.put(self._store, key, path, chunk_size=part, max_concurrency=_PARTS_AT_ONCE)

    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        wanted: Any = {"offset": start} if stop is None else (start, max(stop, start + 1))
        data = self._get(key, {"range": wanted} if (start, stop) != (0, None) else {})
        return data if stop is None else data[: max(stop - start, 0)]

    def fetch(self, key: str, path: Path) -> None:
        with path.open("wb") as file:
            at = 0
            while piece := self._get(key, {"range": (at, at + _PIECE_BYTES)}):
                file.write(piece)
                at += len(piece)
                if len(piece) < _PIECE_BYTES:
                    break

    def list(self, prefix: str, start_after: str = "") -> Iterator[Entry]:
        # obstore lists whole folders: of `a/b` it is given `a`, and what does not begin with `a/b` is left out here.
        folder = prefix.rpartition("/")[0]
        last = ""
        for item in self._objects(folder, start_after):
            key = item["path"]
            if key <= last:
                raise StoreError(
                    f"{self.url} does not list keys in order: {key!r} after {last!r}", "use another service"
                )
            last = key
            if key.startswith(prefix) and key > start_after:
                yield Entry(key, item["size"], item["last_modified"].timestamp())

    def delete(self, key: str) -> None:
        check_key(key)
        with suppress(MissingError), self._world(key):
            obstore.delete(self._store, key)

    def local_path(self, key: str) -> Path | None:
        check_key(key)
        return None

    def _put_new(self, key: str, data: bytes) -> bool:
        with self._world(key):
            try:
                obstore.put(self._store, key, data, mode="create")
            except AlreadyExistsError:
                return False
            return True

    def _get(self, key: str, options: Any) -> bytes:  # noqa: ANN401 - obstore's own dictionary
        check_key(key)
        with self._world(key):
            try:
                return bytes(obstore.get(self._store, key, options=options).bytes())
            except BaseError as error:
                if _BEYOND_END in str(error):
                    return b""
                raise

    def _objects(self, folder: str, start_after: str) -> Iterator[Any]:
        with self._world():
            pages = obstore.list(self._store, folder or None, offset=start_after or None, chunk_size=_PAGE)
        while True:
            with self._world():
                page = next(pages, None)
            if page is None:
                return
            yield from page

    @contextmanager
    def _world(self, key: str = "") -> Iterator[None]:
        """The one place where obstore's errors become ours."""
        try:
            yield
        except (BaseError, FileNotFoundError, ValueError) as error:
            # Not chained: the services' words may repeat a key id or a signed URL.
            raise _translated(error, self.url, key) from None


def _client_options(url: str) -> Any:  # noqa: ANN401 - obstore's own dictionary
    # Options given here take the place of all that obstore would find in the environment, hence the look into it.
    family = _VARIABLES.get(url.partition("://")[0], "AZURE")
    found = {name: os.environ.get(f"{family}_{name.upper()}", "") for name in _PASSED_ON}
    return {**_TIMEOUTS, **{name: value for name, value in found.items() if value}}


def _translated(error: Exception, url: str, key: str) -> StoreError:
    words = str(error)
    what = f"{url}: {key!r}" if key else url
    for pattern, cause, hint in _CAUSES:
        if re.search(pattern, words):
            return StoreError(f"{what}: {cause}", hint)
    if isinstance(error, FileNotFoundError):
        return MissingError(key)
    code = re.search(r"<Code>(\w+)</Code>", words)
    spoken = re.split(r"[<{\n]", words, maxsplit=1)[0]  # the answer's body, which follows, may repeat a key id
    first = re.sub(r"https?://\S+", "<address>", spoken).strip(" :")
    return StoreError(f"{what}: {first}" + (f" ({code.group(1)})" if code else ""))
