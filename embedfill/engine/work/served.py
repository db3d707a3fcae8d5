"""What an engine answers for: its local models, and the routes to other servers. Asks nobody, loads nothing."""

from collections.abc import Mapping
from fnmatch import fnmatchcase

from embedfill.batchapi.models import EMBEDDINGS
from embedfill.engine.settings import RouteSettings


class Served:
    def __init__(self, local: tuple[str, ...], routes: Mapping[str, RouteSettings]) -> None:
        self._local = local
        self._routes = dict(routes)

    @property
    def names(self) -> tuple[str, ...]:
        """Models that can be listed: the local ones, and those that a route names in full."""
        plain = (pattern for pattern in self._routes if not set(pattern) & set("*?["))
        return tuple(dict.fromkeys((*self._local, *plain)))

    def at(self, endpoint: str) -> str:
        """What is answered there, in words: local models, and the patterns of routes."""
        local = self._local if endpoint == EMBEDDINGS else ()
        routed = (
            name for name, route in self._routes.items() if route.endpoints is None or endpoint in route.endpoints
        )
        return ", ".join(dict.fromkeys((*local, *routed))) or "none"

    def route(self, model: str, endpoint: str) -> str | None:
        """The pattern of the first route that takes this model at this endpoint; None where none does. A route stands
        over a local model only where it names it in full: `*` is meant for the others."""
        here = endpoint == EMBEDDINGS and model in self._local
        for pattern, route in self._routes.items():
            taken = pattern == model if here else fnmatchcase(model, pattern)
            if taken and (route.endpoints is None or endpoint in route.endpoints):
                return pattern
        return None

    def lists(self, model: str) -> bool:
        """Whether it is served at any endpoint, under this very name or by a pattern."""
        return model in self._local or any(fnmatchcase(model, pattern) for pattern in self._routes)

    def local(self, model: str, endpoint: str) -> bool:
        """Whether a model in this process answers."""
        return endpoint == EMBEDDINGS and model in self._local and self.route(model, endpoint) is None

    def knows(self, model: str, endpoint: str) -> bool:
        """Whether a request would be run at all."""
        return self.route(model, endpoint) is not None or self.local(model, endpoint)
