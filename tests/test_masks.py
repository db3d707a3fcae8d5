"""What must not be seen: keys by their names or their looks, user info and queries of URLs."""

import pytest

from embedfill.errors import ConfigError
from embedfill.masks import masked, public


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://u:sk-REAL@127.0.0.1:9/v1?api-key=sk-Q", "https://127.0.0.1:9/v1"),
        ("no answer from https://sk-REAL@host/v1#sk-F: refused", "no answer from https://host/v1 refused"),
        ("'https://u:pa/ss@host/v1' is none", "'https://host/v1' is none"),
        ("s3://id:secret@bucket/prefix?x=secret", "s3://bucket/prefix"),
        ("abfs://container@account.example/prefix", "abfs://container@account.example/prefix"),
        ("a mail to a@b.example?", "a mail to a@b.example?"),
    ],
)
def test_urls_are_shown_without_user_and_query(text: str, shown: str) -> None:
    assert public(text) == shown


@pytest.mark.parametrize(
    "name",
    ["token", "provider.token", "EMBEDFILL_TOKEN", "auth", "authorization", "bearer", "pat", "x-api-key", "apikey"],
)
def test_a_value_of_such_a_name_is_never_shown(name: str) -> None:
    assert masked(name, "anything") == "***"
    assert "anything" not in str(ConfigError(name, "anything", "no such key"))
    assert "anything" not in str(ConfigError("headers", [{name: "anything"}], "no such key"))


@pytest.mark.parametrize("value", ["sk-REAL", "pa-REAL", "Bearer REAL", "ghp_REAL", " sk-REAL"])
def test_what_looks_like_a_key_is_never_shown(value: str) -> None:
    assert "REAL" not in str(ConfigError("embedding.organisation", value, "no such key"))


@pytest.mark.parametrize(
    ("name", "value"),
    [("chunking.max_tokens", 7), ("embedding.special_tokens", "drop"), ("embedding.model", "skate"), ("monkey", "m")],
)
def test_anything_else_is(name: str, value: object) -> None:
    assert masked(name, value) == value
