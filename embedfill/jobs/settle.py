"""An ended batch to its outcome: its result lines become a pack of answers and, where refused, refusals.

Every request that has an answer is in the pack, in the order of its shard; the ids beside the pack are those of the
successes alone. What failed by the provider's own fault, or never ran, is in neither: it goes out again. An answer that
does not say what it cost is taken to have had as many prompt tokens as we counted; what it generated is not known.
"""

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
import orjson

from embedfill import ids
from embedfill.batchapi.models import Batch
from embedfill.jobs.answers import Answer, AnswerWriter
from embedfill.jobs.endpoints import ENDPOINTS, usage_of
from embedfill.jobs.lines import Line, Lines, words
from embedfill.jobs.pricing import Pricing, cost
from embedfill.loader.packs import put_pack
from embedfill.loader.settle import errors_of, put_refusals
from embedfill.records import Outcome, Refusal
from embedfill.store.base import Store
from embedfill.store.cache import Cache
from embedfill.tracker.shards import request_tokens, shard_ids
from embedfill.tracker.state import ShardState

# Validation errors that are about the file or the account, though they name a line.
_NOT_THE_LINE = {
    "model_not_found", "mismatched_model", "model_mismatch", "duplicate_custom_id", "token_limit_exceeded",
    "too_many_tasks", "empty_file", "invalid_request",
}  # fmt: skip


@dataclass(slots=True)
class _Sums:
    prompt: int = 0
    completion: int = 0
    good: list[int] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    answers: int = 0
    unmetered: int = 0  # answers that do not say what they cost


@dataclass(frozen=True, slots=True)
class JobSettler:
    """Callable as `embedfill.tracker.collect.Settle`."""

    store: Store
    cache: Cache
    space: str
    pricing: Pricing
    at: Callable[[str], None] = lambda _point: None

    def __call__(self, state: ShardState, batch: Batch, files: list[Path]) -> Outcome:
        shard = state.shard
        row_ids = ids.tolist(shard_ids(self.cache.path(shard.key))[0])
        lines = Lines(shard.id, files, len(row_ids))
        lines.scan()
        pack = self.cache.scratch("packs") / f"{shard.id}-{secrets.token_hex(4)}.parquet"
        try:
            sums = self._write(pack, state, batch, lines, row_ids)
            self.at("after-decode")
            good = np.sort(ids.array(row_ids[request] for request in sums.good)).tobytes()
            packs = (put_pack(self.store, self.space, pack, good, self.at),) if sums.answers else ()
        finally:
            pack.unlink(missing_ok=True)
        self.at("before-refusals")
        return self._outcome(state, batch, lines, sums, packs)

    def _write(self, pack: Path, state: ShardState, batch: Batch, lines: Lines, row_ids: list[bytes]) -> _Sums:
        sums, model = _Sums(), self.pricing.model_of(state.shard.id)
        price, counted = self.pricing.of(model), request_tokens(self.cache.path(state.shard.key), len(row_ids)).tolist()
        with AnswerWriter(pack) as writer:
            for request, line in chain(lines.answered(), _blamed(batch, len(row_ids))):
                prompt, completion = usage_of(line.body)
                if not (prompt or line.code) and ENDPOINTS[self.pricing.endpoint].metered:
                    prompt, sums.unmetered = counted[request], sums.unmetered + 1
                answer = Answer(
                    row_ids[request], line.status or None, orjson.dumps(line.body).decode() if line.body else None,
                    line.code or None, line.message or None, prompt, completion,
                    0.0 if line.code else cost(price, prompt, completion), _model_of(line.body, model), batch.id,
                )  # fmt: skip
                writer.add(answer)
                sums.answers += 1
                sums.prompt, sums.completion = sums.prompt + prompt, sums.completion + completion
                if answer.ok:
                    sums.good.append(request)
                else:
                    sums.refusals.append(Refusal(answer.row_id.hex(), line.code, line.message, inputs=1))
        return sums

    def _outcome(self, state: ShardState, batch: Batch, lines: Lines, sums: _Sums, packs: tuple[str, ...]) -> Outcome:
        stated = batch.usage.input_tokens if batch.usage else 0
        if sums.unmetered and not stated:
            lines.anomalies["usage_missing"] += sums.unmetered
        completion = (batch.usage.output_tokens if batch.usage else 0) or sums.completion
        return Outcome(
            shard=state.shard.id,
            attempt=state.attempt,
            batch_id=batch.id,
            status=batch.status,
            texts=state.shard.texts,
            vectors=len(sums.good),
            refused=len(sums.refusals),
            prompt_tokens=stated or sums.prompt,
            cost_usd=cost(self.pricing.of(self.pricing.model_of(state.shard.id)), stated or sums.prompt, completion),
            packs=packs,
            refusals=put_refusals(self.store, self.space, sums.refusals, lines.odd_lines),
            anomalies=dict(sorted(lines.anomalies.items())),
            errors=errors_of(batch, lines.anomalies, len(sums.good)),
            completion_tokens=completion,
            seconds=batch.seconds,
        )


def _model_of(body: object, otherwise: str) -> str:
    """The model that answered, as it says."""
    found = body.get("model") if isinstance(body, dict) else None
    return found if isinstance(found, str) else otherwise


def _blamed(batch: Batch, requests: int) -> Iterator[tuple[int, Line]]:
    """Requests for which a provider would not take the file, by line: they are refused, the others go out again."""
    seen: set[int] = set()
    for error in batch.errors.data if batch.errors and batch.status == "failed" else ():
        request = (error.line or 0) - 1
        if 0 <= request < requests and error.code not in _NOT_THE_LINE and request not in seen:
            seen.add(request)
            yield request, Line(None, 0, None, *words({"code": error.code, "message": error.message}, "invalid"))
