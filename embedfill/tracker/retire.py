"""Planned shards that are too large for the limit that holds go back: their texts are planned anew, in smaller ones.

First the next claim of each is made, `closed`: it names no file and is never posted, so nobody else can take the shard
to the provider. Then a plan lists what is retired, with the claim that closed it.
"""

import secrets
from dataclasses import asdict

from embedfill import ids
from embedfill.records import Claim
from embedfill.store import layout
from embedfill.tracker.maker import in_hand
from embedfill.tracker.state import ShardState, State, Status
from embedfill.tracker.submit import Account


def retire(account: Account, state: State, shards: list[ShardState]) -> list[ShardState]:
    """Retires those of the planned shards that nobody claims meanwhile, and gives them."""
    nonce = secrets.token_hex(8)
    in_hand.add(nonce)
    try:
        closed = {shard.shard.id: shard.attempt + 1 for shard in shards if _close(account, shard, nonce)}
        account.at("after-close")
        return _commit(state, closed) if closed else []
    finally:
        in_hand.discard(nonce)


def _close(account: Account, shard: ShardState, nonce: str) -> bool:
    if shard.status is not Status.PLANNED:
        return False
    attempt = shard.attempt + 1
    claim = Claim(shard.shard.id, attempt, "", 0, 0, 0.0, account.maker, nonce)
    return account.store.create(layout.claim(account.space, claim.shard, attempt), ids.canonical(asdict(claim)))


def _commit(state: State, closed: dict[str, int]) -> list[ShardState]:
    """Another planner may take the number first: then its plan is read, and the next one is tried. A shard that was
    claimed again meanwhile, since we slept so long that our claim was taken for abandoned, is left alone."""
    while True:
        state.refresh()
        ours = [state.shards[name] for name, attempt in closed.items() if state.shards[name].attempt == attempt]
        ours = [shard for shard in ours if shard.status is Status.CLAIMED]
        if not ours:
            return []
        number = state.plans + 1
        retired = [[shard.shard.id, shard.attempt] for shard in ours]
        plan = {"number": number, "space": state.space, "shards": [], "retired": retired}
        if state.store.create(layout.plan(state.space, number), ids.canonical(plan)):
            state.refresh()
            return ours
