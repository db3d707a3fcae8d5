"""Which model is answered where."""

import pytest

from embedfill.engine.settings import RouteSettings
from embedfill.engine.work.served import Served

CHAT, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"
ANY = RouteSettings(base_url="http://127.0.0.1:9/v1")
CHAT_ONLY = RouteSettings(base_url="http://127.0.0.1:9/v1", endpoints=[CHAT])
SERVED = Served(("here", "taken"), {"gpt-4*": CHAT_ONLY, "gpt-*": ANY, "taken": ANY, "chat": CHAT_ONLY, "o[13]": ANY})


@pytest.mark.parametrize(
    ("model", "endpoint", "route"),
    [
        ("gpt-4o", CHAT, "gpt-4*"),
        ("gpt-4o", EMBEDDINGS, "gpt-*"),  # the first that takes both
        ("GPT-4o", CHAT, None),
        ("o3", CHAT, "o[13]"),
        ("o2", CHAT, None),
        ("here", EMBEDDINGS, None),
        ("here", CHAT, None),
        ("taken", EMBEDDINGS, "taken"),
        ("chat", EMBEDDINGS, None),
    ],
)
def test_the_first_route_that_takes_a_model_at_an_endpoint(model: str, endpoint: str, route: str | None) -> None:
    assert SERVED.route(model, endpoint) == route
    assert SERVED.local(model, endpoint) == (model == "here" and endpoint == EMBEDDINGS)
    assert SERVED.knows(model, endpoint) == (route is not None or (model == "here" and endpoint == EMBEDDINGS))


def test_a_route_for_everything_leaves_local_models_alone_unless_it_names_them() -> None:
    served = Served(("here", "taken"), {"*": ANY, "taken": ANY})
    assert served.local("here", EMBEDDINGS) and served.route("here", CHAT) == "*"
    assert served.route("taken", EMBEDDINGS) == "taken" and served.route("anything", EMBEDDINGS) == "*"


def test_what_is_answered_at_an_endpoint_in_words() -> None:
    assert SERVED.at(EMBEDDINGS) == "here, taken, gpt-*, o[13]"
    assert SERVED.at(CHAT) == "gpt-4*, gpt-*, taken, chat, o[13]"
    assert Served(("here",), {}).at(CHAT) == "none"


def test_patterns_are_not_listed_but_what_they_take_is_found() -> None:
    assert SERVED.names == ("here", "taken", "chat")
    assert SERVED.lists("gpt-9") and SERVED.lists("here") and not SERVED.lists("nobody")
