"""Money: whether a shard may go out under `budget_usd`, counting what is spent and what is in flight. And what the
provider's own billing limits look like, wherever it tells of them."""

from embedfill.errors import BillingError
from embedfill.providers.retry import BILLING_CODES
from embedfill.records import Outcome
from embedfill.tracker.sums import Sums

_ROUNDING_USD = 1e-9  # sums of floats are not exact


def affords(budget_usd: float | None, sums: Sums, price: float | None) -> bool:
    """True: it may go out. False: not while claims are open that may never be posted. Raises BillingError where what
    is spent and submitted leaves too little."""
    if budget_usd is None or not price:
        return True
    sure = sums.spent_usd + sums.posted.usd
    if sure + price > budget_usd + _ROUNDING_USD:
        raise BillingError(
            f"the next batch (${price:.6g}) would exceed budget_usd = {budget_usd}: ${sums.spent_usd:.6g} spent, "
            f"${sums.posted.usd + sums.claimed.usd:.6g} in flight",
            "raise batch.budget_usd, then run again: it goes on from here",
        )
    return sure + sums.claimed.usd + price <= budget_usd + _ROUNDING_USD


def billing_limit(outcome: Outcome) -> BillingError | None:
    """The provider's billing limit, where a batch's validation or one of its lines ran into it."""
    words = [error for error in outcome.errors if error.partition(":")[0] in BILLING_CODES]
    words += [code for code in outcome.anomalies if code in BILLING_CODES]
    if not words:
        return None
    return BillingError(
        f"the provider refuses for its billing limit: {words[0]} (batch {outcome.batch_id})",
        "raise the limit, then run again",
    )
