"""Cancels what is in flight and collects what was done. Submits nothing: a later run sends what is missing.

doubts    claims without a batch, and batches that the store has lost    looked up first
cancel    every batch that is out                                       asked to end
collect   what they brought till then                                   paid, so it is kept
"""

from embedfill.account import account_of, settler_of
from embedfill.config import Config
from embedfill.project import open_project
from embedfill.tracker.cancellation import Cancellation, Cancelled, Options

__all__ = ["Cancelled", "Options", "cancel"]


def cancel(config: Config, options: Options | None = None) -> Cancelled:
    """Ends what is in flight in the configuration's space. A run that is at work meanwhile would go on submitting: stop
    it first. Raises UsageError where there is no store, or the answer is no."""
    project, options = open_project(config, read_only=True), options or Options()
    state = project.state().refresh()
    if not state.open():
        return Cancelled()
    with project.cache.in_use(), project.client() as client:
        account = account_of(project, client, options.at, options.clock)
        return Cancellation(account, state, settler_of(project, options.at), options).run()
