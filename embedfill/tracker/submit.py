"""One planned shard to a running batch: upload, claim, POST, batch reference, in that order and with no second POST.

Whatever happens in between is found again: an upload without a claim costs nothing, a claim without a reference is
looked into (doubt.py) before anything else is sent for its shard.
"""

import os
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from embedfill import ids
from embedfill.batchapi.models import Batch
from embedfill.batchapi.prices import cost_usd
from embedfill.errors import BillingError, RefusedError, UnreachableError
from embedfill.providers.client import BatchClient
from embedfill.providers.profiles import Patience
from embedfill.records import Claim, Maker
from embedfill.store import layout
from embedfill.store.base import Store
from embedfill.store.cache import Cache
from embedfill.tracker.shards import write_batch_file
from embedfill.tracker.state import ShardState, read_reference, reference


@dataclass(slots=True)
class Account:
    """Where shards go: the provider and all that a request needs. `store_id` marks our batches among others'."""

    store: Store
    cache: Cache
    client: BatchClient
    space: str
    store_id: str
    model: str
    dimensions: int | None
    encoding: str
    price_per_million: float | None
    patience: Patience
    maker: Maker
    tidy: bool = False  # delete a settled batch's files: they cost nothing but room on this machine
    mine: set[str] = field(default_factory=set)  # nonces of the claims that this process made and is done with posting
    at: Callable[[str], None] = lambda _point: None  # named points of the write order, for crash tests

    def metadata(self, shard_id: str, attempt: int) -> dict[str, str]:
        return {"embedfill_store": self.store_id, "embedfill_shard": shard_id, "embedfill_try": str(attempt)}


def submit(account: Account, state: ShardState) -> None:
    """Takes a planned shard to its batch reference, or to void where the provider refuses it.

    Raises BillingError and RefusedError as the provider gave them, after the claim is void; where no answer came the
    claim stays open, in doubt, and nothing is raised: the next step looks.
    """
    claim = _claim(account, state)
    if claim is None:
        return
    key = layout.batch(account.space, claim.shard, claim.attempt)
    if read_reference(account.store, key)[0]:  # somebody took us for dead while we slept, and wrote void
        return
    account.at("before-post")
    try:
        batch = account.client.create_batch(claim.file_id, account.metadata(claim.shard, claim.attempt))
    except (RefusedError, BillingError) as error:
        if isinstance(error, RefusedError) and error.status >= 500:
            return  # it may have been accepted all the same
        account.store.create(key, reference(None, f"refused: {error.code}: {error.message}"))
        raise
    except UnreachableError:
        return
    finally:
        account.mine.add(claim.nonce)
    account.at("before-reference")
    adopt(account, state, batch)


def adopt(account: Account, state: ShardState, batch: Batch) -> None:
    """Writes the batch reference of the shard's newest claim. Where void stands there already, our batch came too
    late: it is cancelled."""
    key = layout.batch(account.space, state.shard.id, state.attempt)
    if account.store.create(key, reference(batch.id)):
        state.batch_id = batch.id
        return
    _, standing = read_reference(account.store, key)
    if standing != batch.id:
        account.client.cancel(batch.id)


def _claim(account: Account, state: ShardState) -> Claim | None:
    """Uploads the batch file, then claims the shard. None where another tracker has claimed it first."""
    shard, attempt = state.shard, state.attempt + 1
    path = account.cache.scratch("batchfiles") / f"{shard.id}-{os.getpid()}-{secrets.token_hex(4)}.jsonl"
    source = account.cache.path(shard.key)
    try:
        write_batch_file(source, path, shard.id, account.model, account.encoding, account.dimensions)
        account.at("before-upload")
        file = account.client.upload(path, f"embedfill-{shard.id}.jsonl")
    finally:
        path.unlink(missing_ok=True)
    account.at("before-claim")
    price = cost_usd(shard.tokens, account.price_per_million)
    claim = Claim(shard.id, attempt, file.id, file.created_at, shard.tokens, price, account.maker, secrets.token_hex(8))
    if not account.store.create(layout.claim(account.space, shard.id, attempt), ids.canonical(asdict(claim))):
        account.client.delete_file(file.id)
        return None
    state.attempt, state.batch_id, state.void = attempt, None, False
    account.at("after-claim")
    return claim
