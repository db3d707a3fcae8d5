"""What the tracker needs of a configuration, put together: the account that batches go to, and what settles them.
Submits nothing itself."""

from collections.abc import Callable

from embedfill.clock import Clock
from embedfill.loader.settle import Settler
from embedfill.project import Project
from embedfill.providers.client import BatchClient
from embedfill.providers.profiles import patience_of, window_of
from embedfill.tracker.maker import this_maker
from embedfill.tracker.submit import Account


def account_of(project: Project, client: BatchClient, at: Callable[[str], None], clock: Clock | None = None) -> Account:
    """The project's account at its provider, as this process uses it."""
    request = project.request
    return Account(
        store=project.store,
        cache=project.cache,
        client=client,
        space=project.space.id,
        store_id=project.store_id,
        line=request.line,
        price_of=project.price_of,
        patience=patience_of(project.profile, project.config.batch),
        maker=this_maker(),
        endpoint=request.dialect.endpoint,
        window=window_of(project.profile, project.config.batch),
        options=request.batch_options,
        clock=clock or Clock(),
        tidy=project.profile.name == "local",
        at=at,
    )


def settler_of(project: Project, at: Callable[[str], None]) -> Settler:
    """What turns the project's ended batches into outcomes."""
    return Settler(project.store, project.cache, project.space.id, project.model.dimensions, project.price, at)
