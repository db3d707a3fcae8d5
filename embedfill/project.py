"""What a configuration means: its store, cache, model, space and specs. Opens them; does no work."""

import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from embedfill.batchapi.lines import EmbeddingsRequest
from embedfill.batchapi.prices import batch_price, cost_usd, sync_price
from embedfill.chunker.template import Template
from embedfill.config import Config
from embedfill.corpus.spec import CorpusSpec, spec_of
from embedfill.errors import ConfigError, MissingError, UsageError
from embedfill.models import tokenizers
from embedfill.models.known import ModelInfo, max_chunk_tokens, resolve
from embedfill.providers.client import BatchClient
from embedfill.providers.connect import connect, engine_data, is_paid, request_of, space_of
from embedfill.providers.profiles import Profile, profile_of
from embedfill.records import ChunkSpec, Outcome, Shard, Space
from embedfill.store import layout
from embedfill.store.base import Store
from embedfill.store.cache import Cache, default_root
from embedfill.store.open import identity, open_store, probe
from embedfill.tracker.quota import Quota, quota_of
from embedfill.tracker.shards import Packing
from embedfill.tracker.state import State
from embedfill.tracker.synchronous import SYNCHRONOUS

_SYNC_PRICE = "embedding.sync_price_per_million"
_BYTES_PER_TOKEN = 16  # cap of a chunk: a word-piece tokenizer calls any long run without spaces one token


@dataclass(frozen=True, slots=True)
class Project:
    """A checked configuration with what it stands for. `price` is USD per million prompt tokens, None: unknown."""

    config: Config
    store: Store
    store_id: str
    cache: Cache
    model: ModelInfo
    profile: Profile
    space: Space
    corpus: CorpusSpec
    chunking: ChunkSpec
    price: float | None
    paid: bool

    def packing(self, quota: Quota) -> Packing:
        batch = self.config.batch
        return Packing(
            limits=self.profile.limits,
            dimensions=self.model.dimensions,
            encoding=self.request.encoding,
            inputs_per_request=batch.inputs_per_request,
            max_inputs=batch.max_inputs,
            shard_tokens=quota.shard_tokens,
            model=self.model.name,
            options=self.space.options,
        )

    @property
    def request(self) -> EmbeddingsRequest:
        return request_of(self.config, self.model)

    def price_of(self, shard: Shard) -> float | None:
        """USD of a whole shard; None where no price is known."""
        return cost_usd(shard.tokens, self.price)

    def cost_of(self, outcome: Outcome) -> float | None:
        """USD of an ended batch: as it was noted, else at the price that is known today."""
        if outcome.cost_usd is not None:
            return outcome.cost_usd
        price = self.sync_price if outcome.status == SYNCHRONOUS else self.price
        return cost_usd(outcome.prompt_tokens, price)

    @property
    def sync_price(self) -> float | None:
        """USD per million prompt tokens of the synchronous endpoint; None where it is not known."""
        embedding = self.config.embedding
        return sync_price(self.model.name, self.profile.name, embedding.sync_price_per_million)

    def check_budget(self, state: State, sync_tail: bool) -> None:
        """Raises ConfigError where a budget is set, and the price of what was sent, or is to be sent, is not known."""
        if self.config.batch.budget_usd is None or self.sync_price is not None:
            return
        if any(outcome.status == SYNCHRONOUS for outcome in state.unpriced):
            why = "is required with a budget: part of what was embedded went through the synchronous endpoint"
            raise ConfigError(_SYNC_PRICE, None, why)
        if sync_tail:
            raise ConfigError(_SYNC_PRICE, None, "is required with a budget and a synchronous tail")

    def state(self) -> State:
        """Where the shards of the space stand, as known before a first refresh."""
        return State(self.store, self.cache, self.space.id, self.cost_of)

    def client(self) -> AbstractContextManager[BatchClient]:
        """The provider's client; the local engine runs as long as the context lasts."""
        return connect(self.config.embedding, engine_data(self.config, self.store, self.cache))

    def quota(self) -> Quota:
        return quota_of(self.profile, self.config.batch)


def open_project(config: Config, read_only: bool = False) -> Project:
    """Opens what the configuration names. With `read_only` nothing is made: a store that is not there is a
    UsageError. Raises ConfigError for what does not fit together."""
    model = resolve(config.embedding)
    profile = profile_of(config.embedding)
    text = _template(config)
    template = Template(text)
    if Template(config.embedding.query_template, "query", "embedding.query_template").names:
        raise ConfigError("embedding.query_template", config.embedding.query_template, "{query} is all it may name")
    corpus = spec_of(config, template.names)
    chunking = _chunk_spec(config, model, text)
    price = batch_price(model.name, profile.name, config.embedding.price_per_million)
    if config.batch.budget_usd is not None and price is None:
        raise ConfigError(
            "embedding.price_per_million", None, f"is required with a budget: no price of {model.name} is known"
        )
    paid = is_paid(config.embedding, profile, config.embedding.price_per_million)
    if paid and config.store.startswith("memory:"):
        raise ConfigError(
            "store", config.store, "is gone with this process, and what was paid for with it: name another"
        )
    store, store_id = _open_store(config, read_only)
    cache_root = config.path(config.cache.dir) if config.cache.dir else default_root()
    return Project(
        config=config,
        store=store,
        store_id=store_id,
        cache=Cache(Path(cache_root) / store_id, store),
        model=model,
        profile=profile,
        space=space_of(config, model),
        corpus=corpus,
        chunking=chunking,
        price=price,
        paid=paid,
    )


def _template(config: Config) -> str:
    """The template with the text column's own name, where there is one such column, written as {text}."""
    columns = config.corpus.text_columns
    if len(columns) > 1:
        return config.embedding.template
    return re.sub(r"(?<!\{)\{" + re.escape(columns[0]) + r"\}(?!\})", "{text}", config.embedding.template)


def _open_store(config: Config, read_only: bool) -> tuple[Store, str]:
    store = open_store(config.store_url)
    try:
        store.read(layout.STORE)
    except MissingError:
        if read_only:
            hint = "make it with: embedfill run CONFIG"
            raise UsageError(f"there is no store at {config.store_url} yet", hint) from None
        probe(store)  # before anything is shared through it
    return store, identity(store)


def _chunk_spec(config: Config, model: ModelInfo, template: str) -> ChunkSpec:
    max_tokens = max_chunk_tokens(model, config.chunking.max_tokens)
    overlap = config.chunking.overlap
    if overlap * 2 > max_tokens:
        raise ConfigError("chunking.overlap", overlap, f"at most half of chunking.max_tokens ({max_tokens})")
    return ChunkSpec(
        tokenizer=model.tokenizer,
        max_tokens=max_tokens,
        overlap=overlap,
        format=config.chunking.format,
        template=template,
        max_bytes=max_tokens * _BYTES_PER_TOKEN,
        special_tokens=config.embedding.special_tokens,
        too_long=config.embedding.too_long,
        tokenizer_file=None if model.tokenizer in tokenizers.NAMES else str(config.path(model.tokenizer)),
    )
