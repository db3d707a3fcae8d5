"""One planned shard to a running batch: upload, claim, POST, batch reference, in that order and with no second POST.

Whatever happens in between is found again: an upload without a claim costs nothing, a claim without a reference is
looked into (doubt.py) before anything else is sent for its shard.
"""

import math
import os
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from embedfill import ids
from embedfill.batchapi.models import EMBEDDINGS, Batch
from embedfill.clock import Clock
from embedfill.errors import BillingError, ProviderError, RefusedError, StoreError, UnreachableError
from embedfill.providers.client import BatchClient
from embedfill.providers.profiles import Patience
from embedfill.records import Claim, Maker, Shard
from embedfill.store import layout
from embedfill.store.base import Store
from embedfill.store.cache import Cache
from embedfill.tracker.maker import in_hand
from embedfill.tracker.shards import Line, write_batch_file
from embedfill.tracker.state import ShardState, read_reference, reference


@dataclass(slots=True)
class Account:
    """Where shards go: the provider and all that a request needs. `store_id` marks our batches among others'."""

    store: Store
    cache: Cache
    client: BatchClient
    space: str
    store_id: str
    line: Line
    price_of: Callable[[Shard], float | None]  # USD of a whole shard, at most; None: no price is known
    patience: Patience
    maker: Maker
    endpoint: str = EMBEDDINGS
    window: str = "24h"
    options: Mapping[str, Any] = field(default_factory=dict)  # more for POST /batches to say
    clock: Clock = field(default_factory=Clock)
    tidy: bool = False  # delete a settled batch's files: they cost nothing but room on this machine
    at: Callable[[str], None] = lambda _point: None  # named points of the write order, for crash tests

    def metadata(self, shard_id: str, attempt: int) -> dict[str, str]:
        return {"embedfill_store": self.store_id, "embedfill_shard": shard_id, "embedfill_try": str(attempt)}

    def upload_name(self, shard_id: str) -> str:
        """What a batch file is called at the provider: it says whose it is, for prune."""
        return f"embedfill-{self.store_id}-{shard_id}.jsonl"


def submit(account: Account, state: ShardState, withdraw: Callable[[], str] = lambda: "") -> bool:
    """Takes a planned shard to its batch reference, or to void where the provider refuses it. True: our batch is out.
    `withdraw` is asked once the claim stands, and all others can see it; where it gives a reason nothing is posted.

    Raises BillingError and RefusedError as the provider gave them, after the claim is void; where no answer came to
    the POST the claim stays open, in doubt, and nothing is raised: the next step looks.
    """
    nonce = secrets.token_hex(8)
    in_hand.add(nonce)
    try:
        claim = _claim(account, state, nonce)
        if claim is None:
            return False
        if reason := withdraw():
            _void(account, state, claim, reason)
            return False
        return _post(account, state, claim)
    finally:
        in_hand.discard(nonce)


def _void(account: Account, state: ShardState, claim: Claim, reason: str) -> None:
    """Ends a claim that has no batch and never will have one. Its file is of no more use."""
    key = layout.batch(account.space, claim.shard, claim.attempt)
    if account.store.create(key, reference(None, reason)) and state.attempt == claim.attempt:
        state.void = True
    with suppress(ProviderError, BillingError):  # what is left behind costs nothing, and prune finds it
        account.client.delete_file(claim.file_id)


def _post(account: Account, state: ShardState, claim: Claim) -> bool:
    key = layout.batch(account.space, claim.shard, claim.attempt)
    if read_reference(account.store, key)[0]:  # somebody took us for dead while we slept, and wrote void
        return False
    account.at("before-post")
    try:
        metadata = account.metadata(claim.shard, claim.attempt)
        batch = account.client.create_batch(claim.file_id, metadata, account.endpoint, account.window, account.options)
    except UnreachableError:
        return False
    except (RefusedError, BillingError) as error:
        if isinstance(error, RefusedError) and _unclear(error):
            return False
        _void(account, state, claim, f"refused: {error.code}: {error.message}")
        raise
    account.at("before-reference")
    return adopt(account, state, batch)


def _unclear(error: RefusedError) -> bool:
    """Whether the batch may have been made all the same: gateways answer 408 too where the server behind was slow, and
    what does not speak the API's form knows nothing of it."""
    return error.plain or error.status == 408 or error.status >= 500


def adopt(account: Account, state: ShardState, batch: Batch) -> bool:
    """Writes the batch reference of the shard's newest claim. Where void stands there already, our batch came too
    late: it is cancelled. True: the reference names this batch."""
    key = layout.batch(account.space, state.shard.id, state.attempt)
    if account.store.create(key, reference(batch.id)):
        state.batch_id = batch.id
        return True
    _, standing = read_reference(account.store, key)
    if standing != batch.id:
        account.client.cancel(batch.id)
    return standing == batch.id


def _claim(account: Account, state: ShardState, nonce: str) -> Claim | None:
    """Uploads the batch file, then claims the shard. None where another tracker has claimed it first."""
    shard, attempt = state.shard, state.attempt + 1
    path = account.cache.scratch("batchfiles") / f"{shard.id}-{os.getpid()}-{secrets.token_hex(4)}.jsonl"
    source = account.cache.path(shard.key)
    try:
        write_batch_file(source, path, shard.id, account.line)
        account.at("before-upload")
        file = account.client.upload(path, account.upload_name(shard.id))
    finally:
        path.unlink(missing_ok=True)
    account.at("before-claim")
    claim = Claim(
        shard.id, attempt, file.id, file.created_at, shard.tokens, account.price_of(shard), account.maker, nonce
    )
    if not _create(account.store, layout.claim(account.space, shard.id, attempt), ids.canonical(asdict(claim))):
        account.client.delete_file(file.id)
        return None
    state.attempt, state.claimed_at, state.batch_id, state.void = attempt, math.inf, None, False
    account.at("after-claim")
    return claim


def _create(store: Store, key: str, data: bytes) -> bool:
    """Creates, and looks where no answer came: the claim may stand. Where nothing can be seen the error goes on, and
    what may stand after all is in doubt for whoever comes next."""
    try:
        return store.create(key, data)
    except StoreError as error:
        try:
            return store.read(key) == data
        except StoreError:
            raise error from None
