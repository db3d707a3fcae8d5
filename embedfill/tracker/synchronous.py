"""Finishes a small remainder through the synchronous endpoint, at its own price: a last batch of a few texts may take a
day. Only where a user asks for it.

The endpoint keeps nothing that could be found again. A claim without a file says that its shard is being asked for; what
has come is settled whatever ends the asking. So a kill loses at most what one shard's requests had brought, and an
answer that never came is not asked for again here: either is paid for a second time by the next plan, no more.
"""

import math
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from embedfill import ids
from embedfill.batchapi.lines import lines_of
from embedfill.batchapi.models import Batch
from embedfill.batchapi.prices import cost_usd
from embedfill.errors import BillingError, RefusedError
from embedfill.providers.retry import ATTEMPTS, backoff_s
from embedfill.records import Claim, Outcome, Shard
from embedfill.store import layout
from embedfill.tracker.budget import affords
from embedfill.tracker.elsewhere import Elsewhere
from embedfill.tracker.maker import in_hand
from embedfill.tracker.shards import write_batch_file
from embedfill.tracker.state import ShardState, State, Status, read_reference, reference
from embedfill.tracker.submit import Account
from embedfill.tracker.sums import sums_of

SYNCHRONOUS = "synchronous"  # the status of such an outcome
_BUSY = 429
_TEXTS_FAULT = frozenset({400, 413, 422})  # any other refusal is about the key, the model or the moment
_LEAVE_BEFORE = 0.5  # of a claim's time to live: afterwards another tracker takes it for abandoned


@dataclass(slots=True)
class SyncTail:
    """`settle` makes an outcome of a file of result lines, as it does for batches. `price_per_million` is USD of
    synchronous tokens. `outcomes` are those written so far, also where `finish` raises."""

    account: Account
    settle: Callable[[ShardState, Batch, list[Path]], Outcome]
    price_per_million: float | None
    budget_usd: float | None = None
    outcomes: list[Outcome] = field(default_factory=list)

    def finish(self, state: State, limit_texts: int) -> list[Outcome]:
        """Asks for every planned shard, if they hold at most `limit_texts` texts in all; else does nothing. A shard that
        comes back short is settled all the same: what is missing is planned again.

        Raises BillingError where the budget or the provider forbids more, ProviderError where it does not answer or
        refuses for another reason than a text. What is not done then is still planned, or no longer in flight.
        """
        state.refresh()
        planned = [shard for shard in state.open() if shard.status is Status.PLANNED]
        if sum(shard.shard.texts for shard in planned) > limit_texts:
            return []
        before = len(self.outcomes)
        for shard in planned:
            self._one(state, shard)
        return self.outcomes[before:]

    def _one(self, state: State, shard: ShardState) -> None:
        nonce = secrets.token_hex(8)
        in_hand.add(nonce)
        try:
            if self._claim(shard, nonce) and self._afforded(state, shard):
                self._asked(state, shard)
        finally:
            in_hand.discard(nonce)

    def _claim(self, shard: ShardState, nonce: str) -> bool:
        """False where another tracker has claimed the shard first."""
        one, attempt = shard.shard, shard.attempt + 1
        claim = Claim(one.id, attempt, "", 0, one.tokens, self._price_of(one), self.account.maker, nonce)
        key = layout.claim(self.account.space, one.id, attempt)
        if not self.account.store.create(key, ids.canonical(asdict(claim))):
            return False
        shard.attempt, shard.claimed_at, shard.batch_id, shard.void = attempt, math.inf, None, False
        self.account.at("after-claim")
        return True

    def _price_of(self, shard: Shard) -> float | None:
        return cost_usd(shard.tokens, self.price_per_million)

    def _afforded(self, state: State, shard: ShardState) -> bool:
        """Whether the budget allows it, counting all that is out at what its claims say; if not, the claim is void."""
        state.refresh()
        sums = sums_of(state, lambda one: state.claim(state.shards[one.id]).price_usd, besides=shard.shard.id)
        sums = Elsewhere(self.account.store, self.account.cache, self.account.space).refresh().count(sums)
        try:
            allowed = affords(self.budget_usd, sums, self._price_of(shard.shard))
        except BillingError:
            self._void(shard, "over the budget")
            raise
        if not allowed:
            self._void(shard, "the budget is claimed by others")
        return allowed

    def _asked(self, state: State, shard: ShardState) -> None:
        folder = self.account.cache.scratch(SYNCHRONOUS)
        name = f"{shard.shard.id}-{secrets.token_hex(4)}"
        requests, results = folder / f"{name}.requests", folder / f"{name}.results"
        try:
            write_batch_file(self.account.cache.path(shard.shard.key), requests, shard.shard.id, self.account.line)
            try:
                self._ask(shard, requests, results)
            finally:
                self._settle(state, shard, results)  # what has come is paid, whatever ended the asking
        finally:
            requests.unlink(missing_ok=True)
            results.unlink(missing_ok=True)

    def _ask(self, shard: ShardState, requests: Path, results: Path) -> None:
        """Sends the requests one by one, and writes what comes as the result lines of a batch."""
        clock, patience = self.account.clock, self.account.patience
        leave_at = clock.now() + patience.claim_ttl_s * _LEAVE_BEFORE
        with results.open("wb") as file:
            for line in lines_of(requests):
                if clock.now() >= leave_at or self._is_void(shard):
                    return
                file.write(self._result(orjson.loads(line)))
                file.flush()
                self.account.at("after-answer")

    def _result(self, line: dict[str, Any]) -> bytes:
        body = {**self.account.options.get("request_params", {}), **line["body"]}
        try:
            response = {"status_code": 200, "body": _parsed(self._answer(body))}
        except RefusedError as error:
            if error.status not in _TEXTS_FAULT:
                raise
            words = {"code": error.code, "message": error.message}
            response = {"status_code": error.status, "body": {"error": words}}
        result = {"custom_id": line["custom_id"], "response": response, "error": None}
        return orjson.dumps(result, option=orjson.OPT_APPEND_NEWLINE)

    def _answer(self, body: dict[str, Any]) -> bytes:
        """Asks again only where the provider was busy, and so did nothing: a lost answer may have been paid."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self.account.client.once("POST", "/embeddings", json=body).content
            except RefusedError as error:
                if error.status != _BUSY or attempt == ATTEMPTS:
                    raise
                self.account.clock.sleep(error.retry_after_s or backoff_s(attempt))
        raise AssertionError("unreachable: the last attempt raises")

    def _settle(self, state: State, shard: ShardState, results: Path) -> None:
        """The outcome of what has come. None where nothing has, or where somebody took us for dead and the shard is
        theirs now: it may be out in a batch."""
        if not results.exists() or not results.stat().st_size:
            self._void(shard, "nothing came")
            return
        batch = Batch(id="", input_file_id="", status=SYNCHRONOUS, created_at=0)
        settled = self.settle(shard, batch, [results])
        cost = cost_usd(settled.prompt_tokens, self.price_per_million)
        outcome = replace(settled, batch_id=None, status=SYNCHRONOUS, cost_usd=cost)
        key = layout.outcome(self.account.space, shard.shard.id, shard.attempt)
        self.account.at("before-outcome")
        if not self._is_void(shard) and self.account.store.create(key, ids.canonical(asdict(outcome))):
            self.account.at("after-outcome")
            state.add_outcome(key, outcome)
            self.outcomes.append(outcome)

    def _is_void(self, shard: ShardState) -> bool:
        return read_reference(self.account.store, self._reference(shard))[0]

    def _void(self, shard: ShardState, reason: str) -> None:
        shard.void = self.account.store.create(self._reference(shard), reference(None, reason))

    def _reference(self, shard: ShardState) -> str:
        return layout.batch(self.account.space, shard.shard.id, shard.attempt)


def _parsed(content: bytes) -> Any:  # noqa: ANN401
    """None for what is no JSON: then nothing has come of the request."""
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        return None
