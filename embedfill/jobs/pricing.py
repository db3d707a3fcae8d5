"""What shards of a job may cost, from prices by model. Knows no budget."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import orjson
import pyarrow.parquet as pq
from numpy.typing import NDArray

from embedfill.batchapi.prices import batch_price
from embedfill.errors import ConfigError
from embedfill.jobs.config import JobConfig, JobPrice
from embedfill.jobs.endpoints import ENDPOINTS, UNKNOWN
from embedfill.jobs.spool import Spool
from embedfill.records import Outcome, Shard
from embedfill.store import layout
from embedfill.store.cache import Cache
from embedfill.tracker.state import State


def price_for(config: JobConfig, endpoint: str, model: str) -> JobPrice | None:
    """The configured price of a model, else what is known of it; None where nobody has said."""
    if model in config.prices:
        return config.prices[model]
    known = batch_price(model, config.provider.provider)
    if known is None or ENDPOINTS[endpoint].generates:
        return None
    return JobPrice(input=known)


def cost(price: JobPrice | None, prompt_tokens: int, output_tokens: int) -> float | None:
    return None if price is None else (prompt_tokens * price.input + output_tokens * price.output) / 1e6


@dataclass(slots=True)
class Pricing:
    """Prices of one endpoint's shards. A shard's model, and what it may generate, are read from its rows once."""

    config: JobConfig
    endpoint: str
    cache: Cache
    space: str
    _seen: dict[str, tuple[str, int]] = field(default_factory=dict)

    def price_of(self, shard: Shard) -> float | None:
        """USD of a whole shard, at most; None where no price of its model is known."""
        model, output = self._look(shard.id)
        return cost(self.of(model), shard.tokens, output)

    def cost_of(self, outcome: Outcome) -> float | None:
        """USD of an ended batch: as it was noted, else at the price that is known today."""
        if outcome.cost_usd is not None or not outcome.prompt_tokens:
            return outcome.cost_usd
        return cost(self.of(self.model_of(outcome.shard)), outcome.prompt_tokens, outcome.completion_tokens)

    def model_of(self, shard_id: str) -> str:
        return self._look(shard_id)[0]

    def of(self, model: str) -> JobPrice | None:
        return price_for(self.config, self.endpoint, model)

    def output_of(self, tokens: int) -> int:
        """What a request may generate: what it says, else what the user assumes."""
        return (self.config.assume_output_tokens or 0) if tokens == UNKNOWN else tokens

    def check_budget(self, spool: Spool, state: State) -> None:
        """Raises ConfigError where a budget is set and what a request may cost is not known, or what others cost."""
        if self.config.batch.budget_usd is None:
            return
        for model in spool.models:
            if self.of(model) is None:
                raise ConfigError(f"prices.{model}", None, "is required with a budget: { input = …, output = … }")
        for shard_id in self._unpriced(state):
            model = self.model_of(shard_id)
            why = "is required with a budget: part of what this store has sent before was for that model"
            raise ConfigError(f"prices.{model}", None, why)
        self._require(
            "assume_output_tokens", spool, spool.output == UNKNOWN, "no limit to what they may generate",
            "limit them in their bodies, or state one for all",
        )  # fmt: skip
        self._require(
            "assume_media_tokens", spool, spool.media > 0, "what has tokens that only the provider can count",
            "state how many each image, recording or file may come to",
        )  # fmt: skip

    def _unpriced(self, state: State) -> Iterator[str]:
        yield from (outcome.shard for outcome in state.unpriced)
        yield from (shard.shard.id for shard in state.out() if self.price_of(shard.shard) is None)

    def _require(self, key: str, spool: Spool, mask: NDArray[np.bool_], what: str, remedy: str) -> None:
        """Raises ConfigError where nothing is assumed of what requests leave open."""
        found = spool.asked & mask
        if found.any() and getattr(self.config, key) is None:
            first, count = spool.source(int(found.argmax())), int(found.sum())
            raise ConfigError(
                key, None,
                f"is required with a budget: {count:,} request{' has' if count == 1 else 's have'} {what} "
                f"(the first: {first.file} row {first.row}); {remedy}",
            )  # fmt: skip

    def _look(self, shard_id: str) -> tuple[str, int]:
        if shard_id not in self._seen:
            measure = ENDPOINTS[self.endpoint].measure
            model, output = "", 0
            with pq.ParquetFile(self.cache.path(layout.shard(self.space, shard_id)), pre_buffer=False) as file:
                for number in range(file.num_row_groups):
                    for text in file.read_row_group(number, ["text"], use_threads=False).column(0).to_pylist():
                        body = orjson.loads(text)
                        model = body["model"]
                        output += self.output_of(measure(body).output_tokens)
            self._seen[shard_id] = (model, output)
        return self._seen[shard_id]


def by_model(counted: Mapping[str, str]) -> str:
    """How tokens were counted, in words."""
    return ", ".join(f"{model}: {how}" for model, how in counted.items())
