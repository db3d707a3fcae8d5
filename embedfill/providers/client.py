"""The HTTP client of the Files + Batches API. Streams both ways; retries everything but POST /batches."""

import ipaddress
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import httpx
import numpy as np
import pybase64
from pydantic import BaseModel, SecretStr, ValidationError

from embedfill.batchapi.dialect import OPENAI_DIALECT
from embedfill.batchapi.models import EMBEDDINGS, Batch, File, Page
from embedfill.clock import Clock
from embedfill.errors import ConfigError, MissingError, ProviderError, RefusedError, UnreachableError
from embedfill.masks import public
from embedfill.models.base import Vectors
from embedfill.providers.download import download, part_bytes
from embedfill.providers.retry import refusal, retrying

Wire = TypeVar("Wire", bound=BaseModel)
Listed = TypeVar("Listed", Batch, File)
_TIMEOUT = httpx.Timeout(60.0, connect=10.0)


def is_loopback(url: str) -> bool:
    """Whether a URL leads to this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class BatchClient:
    """One account at one endpoint. `revive`, once set, is called when the connection is lost: the local engine may have died."""

    def __init__(
        self,
        base_url: str,
        key: SecretStr | None = None,
        headers: Mapping[str, str] | None = None,
        transport: httpx.BaseTransport | None = None,
        auth: str = OPENAI_DIALECT.auth,
        clock: Clock = Clock(),  # noqa: B008 - immutable
        delete: str = OPENAI_DIALECT.delete,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._delete = delete
        self.revive: Callable[[], None] | None = None
        self.clock = clock
        bearer = "Bearer " if auth == OPENAI_DIALECT.auth else ""
        sent = {**({auth: bearer + key.get_secret_value()} if key else {}), **(headers or {})}
        _check_headers(sent)
        proxies = not is_loopback(base_url)  # a proxy of the environment's cannot reach this machine's own servers
        self._http = httpx.Client(headers=sent, timeout=_TIMEOUT, transport=transport, trust_env=proxies)

    def __repr__(self) -> str:
        return f"BatchClient({self._shown!r})"

    @property
    def _shown(self) -> str:
        return public(self.base_url)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def upload(self, path: Path, filename: str) -> File:
        """Uploads a batch input file, streaming. A second upload of it, after a lost answer, costs nothing."""

        def send() -> File:
            with path.open("rb") as file:
                files = {"file": (filename, file, "application/jsonl")}
                return _parse(File, self._send("POST", "/files", data={"purpose": "batch"}, files=files))

        return retrying(send, self.revive, self.clock.sleep)

    def file(self, file_id: str) -> File:
        return self._get(File, f"/files/{file_id}")

    def delete_file(self, file_id: str) -> None:
        """Deletes a file; one that is gone is no error."""
        try:
            if self._delete == "path":
                self._again("DELETE", f"/files/{file_id}")
            else:
                self._again("POST", "/files/delete", json={"file_ids": [file_id]})
                self.file(file_id)  # the answer may be a success that was none
                raise ProviderError(f"{self._shown} keeps file {file_id}, which was to be deleted")
        except RefusedError as error:
            if error.status != 404:
                raise

    def create_batch(
        self,
        input_file_id: str,
        metadata: Mapping[str, str],
        endpoint: str = EMBEDDINGS,
        window: str = "24h",
        options: Mapping[str, Any] | None = None,
    ) -> Batch:
        """POST /batches, once. Raises UnreachableError, or RefusedError with a status of 408 or from 500 up, where it is
        not known whether a batch was made: look it up before another is made. Any other refusal: none was made."""
        body = {
            "input_file_id": input_file_id,
            "endpoint": endpoint,
            "completion_window": window,
            "metadata": dict(metadata),
            **(options or {}),
        }
        return _parse(Batch, self._send("POST", "/batches", json=body))

    def batch(self, batch_id: str) -> Batch | None:
        """The batch, or None where the provider knows none of that id."""
        try:
            return self._get(Batch, f"/batches/{batch_id}")
        except RefusedError as error:
            if error.status == 404:
                return None
            raise

    def batches(self, page_size: int = 100) -> Iterator[Batch]:
        """All batches of the account, newest first, page by page. Raises ProviderError where the pages do not go on."""
        return self._pages(Batch, "/batches", {"limit": str(page_size)})

    def files(self, page_size: int = 1000) -> Iterator[File]:
        """All batch input files of the account, newest first, page by page."""
        return self._pages(File, "/files", {"purpose": "batch", "limit": str(page_size)})

    def _pages(self, kind: type[Listed], path: str, params: dict[str, str]) -> Iterator[Listed]:
        last = ""
        while True:
            page = self._get(Page, path, params={**params, **({"after": last} if last else {})})
            found = [_parse_value(kind, value) for value in page.data]
            yield from found
            if not page.has_more or not found:
                return
            after = page.last_id or found[-1].id
            if after == last:
                raise ProviderError(f"{self._shown}{path} gives the same page again after {last}")
            last = after

    def cancel(self, batch_id: str) -> None:
        """Asks for a batch to be cancelled; one that has ended, or is gone, is no error."""

        def ask() -> None:
            try:
                self._send("POST", f"/batches/{batch_id}/cancel")
            except RefusedError as error:
                if error.status not in (400, 404, 409):  # 409: it has ended, and to ask again would not change that
                    raise

        retrying(ask, self.revive, self.clock.sleep)

    def download(self, file_id: str, path: Path) -> None:
        """Streams a file to `path`, resuming what is there, and checks its size. Raises MissingError (404)."""
        try:
            self._download(f"/files/{file_id}/content", path, self.file(file_id).bytes)
        except RefusedError as error:
            if error.status == 404:
                raise MissingError(f"file {file_id} of the provider") from None
            raise

    def _download(self, route: str, path: Path, size: int) -> None:
        """Not given up as long as every few tries bring more of the file."""
        most = part_bytes(path)
        while True:
            try:
                return retrying(
                    lambda: download(self._http, self.base_url + route, path, size), self.revive, self.clock.sleep
                )
            except UnreachableError:
                have = part_bytes(path)
                if have <= most:
                    raise
                most = have

    def embed(
        self, texts: Sequence[str], model: str, dimensions: int | None = None, body: Mapping[str, Any] | None = None
    ) -> Vectors:
        """The synchronous endpoint: float32, shape (len(texts), dimensions), in order, every value finite. `body` is
        the same request in the words of a provider that has its own."""
        usual: dict[str, Any] = {"model": model, "input": list(texts), "encoding_format": "base64"}
        if dimensions is not None:
            usual["dimensions"] = dimensions
        sent = usual if body is None else dict(body)
        answer = retrying(lambda: _json(self._send("POST", "/embeddings", json=sent)), self.revive, self.clock.sleep)
        try:
            return _embeddings(answer["data"], len(texts), dimensions)
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise ProviderError(f"{self._shown}/embeddings answered something else than embeddings: {error}") from None

    def once(self, method: str, path: str, **options: Any) -> httpx.Response:  # noqa: ANN401
        """Any request as it is, sent once. Raises RefusedError, BillingError or UnreachableError."""
        return self._send(method, path, **options)

    def _get(self, kind: type[Wire], path: str, **options: Any) -> Wire:  # noqa: ANN401
        return retrying(lambda: _parse(kind, self._send("GET", path, **options)), self.revive, self.clock.sleep)

    def _again(self, method: str, path: str, **options: Any) -> httpx.Response:  # noqa: ANN401
        return retrying(lambda: self._send(method, path, **options), self.revive, self.clock.sleep)

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:  # noqa: ANN401
        try:
            response = self._http.request(method, self.base_url + path, **options)
        except httpx.HTTPError as error:
            raise UnreachableError(
                f"no answer from {self._shown}: {public(str(error))}", "check embedding.base_url and the network"
            ) from error
        if not response.is_success:
            raise refusal(response)
        return response


def _parse(kind: type[Wire], response: httpx.Response) -> Wire:
    """An answer that is no such object leaves in doubt what took effect."""
    try:
        return kind.model_validate_json(response.content)
    except ValidationError as error:
        raise UnreachableError(f"{public(str(response.url))} did not answer with a {kind.__name__}: {error}") from None


def _json(response: httpx.Response) -> Any:  # noqa: ANN401
    """What is no JSON comes from something in between, and may pass."""
    try:
        return response.json()
    except ValueError as error:
        raise UnreachableError(f"{public(str(response.url))} answered something else than JSON: {error}") from None


def _parse_value(kind: type[Wire], value: object) -> Wire:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise ProviderError(f"a {kind.__name__} in a listing is malformed: {error}") from None


def _embeddings(data: list[dict[str, Any]], count: int, dimensions: int | None) -> Vectors:
    """Raises ValueError, KeyError, TypeError or OverflowError where they are not just `count` finite vectors."""
    vectors = {item["index"]: _vector(item["embedding"]) for item in data}
    found = np.stack([vectors[number] for number in range(count)])
    if found.ndim != 2 or not np.isfinite(found).all():
        raise ValueError("numbers are missing")
    if dimensions is not None and found.shape[1] != dimensions:
        raise ValueError(f"{found.shape[1]} numbers each, where {dimensions} were asked for")
    return found


def _vector(value: str | list[float]) -> Vectors:
    if isinstance(value, str):
        return np.frombuffer(pybase64.b64decode(value, validate=True), dtype="<f4").astype(np.float32)
    return np.asarray(value, dtype=np.float32)


def _check_headers(headers: Mapping[str, str]) -> None:
    """Refuses what HTTP cannot carry, before a library's error shows it: one of these is the key."""
    for name, value in headers.items():
        if not (value.isascii() and value.isprintable()):
            raise ConfigError(name, "***", "a header cannot carry it: printable ASCII in one line is allowed")
