"""What an endpoint can do, found out with one tiny batch, and the settings that follow from it. Embeds nothing of the
corpus and leaves nothing behind: its files are deleted, and a batch that is not waited for is cancelled."""

import itertools
import secrets
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from embedfill.batchapi.lines import EmbeddingsRequest, lines_of, parse_result, request_line
from embedfill.batchapi.models import Batch
from embedfill.batchapi.prices import PRICES, cost_usd
from embedfill.clock import Clock
from embedfill.config import Config
from embedfill.errors import BillingError, ProviderError, RefusedError, UnreachableError, UsageError
from embedfill.features import TEXT, Ask, Features, Settings, asks_of, judged, settings_of, warnings_of
from embedfill.loader.decode import prompt_tokens
from embedfill.models.known import KNOWN, ModelInfo
from embedfill.progress import Progress, Quiet
from embedfill.providers.client import BatchClient
from embedfill.providers.connect import connect, is_paid, request_of
from embedfill.providers.profiles import Patience, patience_of, profile_of, window_of
from embedfill.providers.traits import deletes, lists_file, ranges

_STEP_S = 1.0  # between looks for a new batch in the listing, at most
_TRIES = 4
_LOOK_AT = 100  # batches of the listing, newest first
_MARK = "embedfill_probe"
_OTHERWISE = {"/v1/embeddings": "/embeddings", "/embeddings": "/v1/embeddings"}  # how else an endpoint may be spelt


@dataclass(frozen=True, slots=True)
class Cost:
    """What a probe takes, at most; `usd` is None where no price is known."""

    tokens: int
    usd: float | None


@dataclass(frozen=True, slots=True)
class Probe:
    """The features of an endpoint, the settings that follow from them by table, and what a user should know. `cost_usd`
    is None where no price is known."""

    features: Features
    settings: Settings
    warnings: tuple[str, ...]
    prompt_tokens: int
    cost_usd: float | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Options:
    """How to probe. `confirm` is asked before anything is sent that is paid for."""

    confirm: Callable[[Cost], bool] = lambda _: True
    progress: Progress = field(default_factory=Quiet)
    clock: Clock = field(default_factory=Clock)


def probe(config: Config, options: Options | None = None) -> Probe:
    """Probes the configured endpoint. Raises ProviderError where it runs no batch at all, UsageError where `confirm`
    says no, ConfigError."""
    options = options or Options()
    embedding = config.embedding
    info = KNOWN.get(embedding.model) or ModelInfo(embedding.model, embedding.dimensions or 0, 512, "")
    request = request_of(config, info)
    asks = asks_of(config, info, request)
    cost = _cost(config, asks)
    if is_paid(embedding, profile_of(embedding), embedding.price_per_million) and not options.confirm(cost):
        raise UsageError("nothing was sent", "a probe is paid for like any batch")
    with tempfile.TemporaryDirectory(prefix="embedfill-probe-") as folder:
        work = Path(folder)
        with connect(embedding, work / "engine") as client:
            return _Probing(config, request, asks, client, work, options).run()


def _cost(config: Config, asks: Mapping[str, Ask]) -> Cost:
    """A text has no more tokens than bytes, and the two that some models put around it. One goes to the synchronous
    endpoint too."""
    tokens, once = (sum(len(text.encode()) + 2 for ask in asks.values() for text in ask.texts), len(TEXT) + 2)
    return Cost(tokens + once, _usd(config, tokens, once))


def _usd(config: Config, batch_tokens: int, sync_tokens: int) -> float | None:
    """The synchronous endpoint is taken for twice as dear where the user has named a price of batches."""
    own, known = config.embedding.price_per_million, PRICES.get(config.embedding.model)
    if config.embedding.provider == "local":
        return 0.0
    if own is not None:
        return cost_usd(batch_tokens + 2 * sync_tokens, own)
    return (batch_tokens * known.batch + sync_tokens * known.sync) / 1e6 if known else None


@dataclass(slots=True)
class _Probing:
    """One probe under way: `seen` are the features so far, `sent` the asks that are in the newest batch file, `files`
    what is ours at the provider."""

    config: Config
    request: EmbeddingsRequest
    asks: dict[str, Ask]
    client: BatchClient
    work: Path
    options: Options
    nonce: str = field(default_factory=lambda: secrets.token_hex(8))
    seen: dict[str, Any] = field(default_factory=dict)
    sent: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    batch: Batch | None = None
    posting: str | None = None  # the input file of a batch that may exist
    tokens: int = 0

    def run(self) -> Probe:
        start, self.sent = self.options.clock.now(), list(self.asks)
        with self._tidied(), self.options.progress.stage("probe", len(self.asks), "requests") as stage:
            batch = self._ended()
            stage.advance(len(self.asks))
            self._read(batch)
            self.seen["file_listing"] = lists_file(self.client, batch.input_file_id)
            self.seen["file_deletion"] = deletes(self.client, batch.input_file_id)
        batch_tokens = self.tokens
        self._try_sync()
        features = Features(endpoint=self.request.dialect.endpoint, **self.seen)
        return Probe(
            features=features,
            settings=settings_of(self.config, features),
            warnings=tuple(warnings_of(self.config, features)),
            prompt_tokens=self.tokens,
            cost_usd=_usd(self.config, batch_tokens, self.tokens - batch_tokens),
            seconds=round(self.options.clock.now() - start, 3),
        )

    @contextmanager
    def _tidied(self) -> Iterator[None]:
        """Cancels what has not ended and deletes our files, also when interrupted; trouble with that is not told."""
        try:
            yield
        finally:
            with suppress(ProviderError, BillingError):
                if self.posting is not None:
                    self.batch = self._listed(self.posting) or self.batch
                if self.batch is not None and not self.batch.ended:
                    self.client.cancel(self.batch.id)
            for file_id in self.files:
                with suppress(ProviderError, BillingError):
                    self.client.delete_file(file_id)

    @property
    def _patience(self) -> Patience:
        return patience_of(profile_of(self.config.embedding), self.config.batch)

    @property
    def _step_s(self) -> float:
        return min(_STEP_S, self._patience.poll_s)

    # The batch.

    def _ended(self) -> Batch:
        """The batch once it has ended with results. One that fails as a whole ran nothing: it is sent again without the
        lines that it failed for, or with the endpoint's other name."""
        for _ in range(_TRIES):
            batch = self._wait(self._submit())
            if batch.status != "failed":
                return batch
            self._mend(batch)
        raise ProviderError(f"the endpoint failed {_TRIES} batches, the last one {batch.id}")

    def _submit(self) -> Batch:
        path = self.work / "probe.jsonl"
        path.write_bytes(b"".join(self._lines()))
        file = self.client.upload(path, f"probe-{self.nonce}.jsonl")
        self.files.append(file.id)
        for _ in range(_TRIES - 1):
            try:
                return self._post(file.id)
            except RefusedError as error:  # no batch was made
                words = f"{error.param} {error.message}".lower()
                if "endpoint" in words and self._take_other_endpoint():
                    return self._submit()
                if not (error.retryable or "file" in words):  # one just uploaded may not be readable yet
                    raise
                self.options.clock.sleep(self._step_s if error.retry_after_s is None else error.retry_after_s)
        return self._post(file.id)

    def _lines(self) -> Iterator[bytes]:
        request = self.request
        base = {"model": request.model, **request.extra} if request.dialect.model_in == "line" else {}
        for name in self.sent:
            body = {**base, **self.asks[name].parameters, "input": list(self.asks[name].texts)}
            yield request_line(f"{self.nonce}-{name}", body, request.dialect.endpoint, request.dialect)

    def _post(self, file_id: str) -> Batch:
        """Where the answer is lost the listing tells whether there is a batch: it is not posted twice."""
        window = window_of(profile_of(self.config.embedding), self.config.batch)
        endpoint, options = self.request.dialect.endpoint, self.request.batch_options
        self.posting = file_id
        try:
            self.batch = self.client.create_batch(file_id, {_MARK: self.nonce}, endpoint, window, options)
        except (UnreachableError, RefusedError) as error:
            if isinstance(error, UnreachableError) or error.status == 408 or error.status >= 500:
                self.batch = self._found(file_id)
            if self.batch is None:
                raise
        self.posting = None
        return self.batch

    def _found(self, file_id: str) -> Batch | None:
        """The batch of a POST whose answer was lost; None when it is missing for as long as a listing may be late."""
        clock = self.options.clock
        deadline = clock.now() + self._patience.listing_delay_s
        while (batch := self._listed(file_id)) is None and clock.now() < deadline:
            clock.sleep(self._step_s)
        return batch

    def _listed(self, file_id: str) -> Batch | None:
        newest = itertools.islice(self.client.batches(), _LOOK_AT)
        return next((batch for batch in newest if batch.input_file_id == file_id), None)

    def _mend(self, batch: Batch) -> None:
        """Leaves out what a batch failed for. Raises ProviderError where nothing can be left out."""
        errors = batch.errors.data if batch.errors else []
        named = any(error.param in ("url", "endpoint") or "url" in (error.code or "") for error in errors)
        if named and self._take_other_endpoint():
            return
        bad = {self.sent[error.line - 1] for error in errors if error.line and error.line <= len(self.sent)}
        if not bad or "plain" in bad:
            words = "; ".join(f"{error.code}: {error.message}" for error in errors)
            raise ProviderError(f"the endpoint failed batch {batch.id}: {words or 'it does not say why'}")
        self.sent = [name for name in self.sent if name not in bad]

    def _take_other_endpoint(self) -> bool:
        """Whether there is another name to try."""
        usual, dialect = profile_of(self.config.embedding).dialect.endpoint, self.request.dialect
        other = _OTHERWISE.get(dialect.endpoint)
        if other is None or dialect.endpoint != (self.config.batch.endpoint or usual):
            return False
        self.request = replace(self.request, dialect=replace(dialect, endpoint=other))
        return True

    def _wait(self, batch: Batch) -> Batch:
        """Until the batch has ended, and stands in the listing or has been missing from it for long enough."""
        clock, patience = self.options.clock, self._patience
        start, pause_s = clock.now(), self._step_s
        while True:
            waited_s = clock.now() - start
            late = waited_s > patience.listing_delay_s
            self._look(batch, waited_s, late)
            current = self.client.batch(batch.id)
            if current is None and late:
                raise ProviderError(f"the provider no longer knows batch {batch.id}, which it had accepted")
            self.batch = current or batch
            if self.batch.ended and "listing" in self.seen:
                self.files += [file_id for file_id in (self.batch.output_file_id, self.batch.error_file_id) if file_id]
                return self.batch
            clock.sleep(pause_s)
            pause_s = min(pause_s * 1.5, patience.poll_max_s) if "listing" in self.seen else pause_s

    def _look(self, batch: Batch, waited_s: float, late: bool) -> None:
        """Whether the batch stands in the listing by now, and with our mark."""
        if "listing" in self.seen:
            return
        try:
            found = self._listed(batch.input_file_id)
        except UnreachableError:
            raise
        except ProviderError:  # there is no listing, or it makes no sense
            found, late = None, True
        if found is not None:
            marked = (found.metadata or {}).get(_MARK) == self.nonce
            self.seen |= {"listing": True, "listed_after_s": round(waited_s, 3), "metadata": marked}
        elif late:
            self.seen["listing"] = False

    # What came back.

    def _read(self, batch: Batch) -> None:
        results, words = dict[str, Mapping[str, Any]](), ""
        for number, file_id in enumerate(filter(None, (batch.output_file_id, batch.error_file_id))):
            path = self.work / f"result-{number}.jsonl"
            self.client.download(file_id, path)
            for result in map(parse_result, lines_of(path)):
                if result.body is not None:
                    results[(result.custom_id or "").removeprefix(f"{self.nonce}-")] = result.body
                words = words or result.message
            if "range" not in self.seen and (data := path.read_bytes()):
                self.seen |= ranges(self.client, file_id, data)
        if "plain" not in results:
            raise ProviderError(f"batch {batch.id} ended {batch.status} without a vector: {words or 'no result'}")
        self.tokens = sum(map(prompt_tokens, results.values()))
        self.seen |= judged(self.asks, results, self.request)
        self.seen["batch_usage"] = bool(batch.usage and batch.usage.input_tokens)

    def _try_sync(self) -> None:
        try:
            answer = self.client.once("POST", "/embeddings", json=self.request.body([TEXT])).json()
        except (RefusedError, ValueError):
            answer = None
        self.seen["sync"] = isinstance(answer, dict) and bool(answer.get("data"))
        self.tokens += prompt_tokens(answer) if isinstance(answer, dict) else 0
