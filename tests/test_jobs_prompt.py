"""Prompt templates: columns in the strings of a body, and the version that follows from its content."""

from pathlib import Path

import orjson
import pytest

from embedfill.errors import ConfigError, UsageError
from embedfill.jobs.prompt import Prompt, load_prompt
from tests.chat_fixtures import CHAT, PROMPT


def fill(body: dict[str, object], **values: list[str]) -> list[object]:
    prompt = Prompt("prompt.toml", "id", CHAT, body)
    assert set(prompt.columns) == set(values)
    rows = len(next(iter(values.values()), ["one"]))
    return [orjson.loads(text) for text in prompt.fill(values, rows)]


def test_values_are_put_into_strings_as_they_are() -> None:
    body = {"model": "m", "n": 2, "t": 0.5, "on": True, "messages": [{"content": "{{}} {a}: {b}, {a}"}, 'plain " \\ é']}
    odd = 'quote " brace {b} back\\slash \n \u2028 \x00'
    filled = fill(body, a=[odd, "x"], b=["1", ""])
    assert filled[0] == {**body, "messages": [{"content": f"{{}} {odd}: 1, {odd}"}, 'plain " \\ é']}
    assert filled[1] == {**body, "messages": [{"content": "{} x: , x"}, 'plain " \\ é']}


def test_names_of_columns_may_be_any() -> None:
    assert fill({"x": "{Ticket Text} {größe}"}, **{"Ticket Text": ["a"], "größe": ["b"]}) == [{"x": "a b"}]


def test_a_body_without_columns_is_the_same_for_all() -> None:
    assert list(Prompt("p", "id", CHAT, {"a": [{}, [], ""]}).fill({}, 2)) == ['{"a":[{},[],""]}'] * 2


def test_the_version_is_of_the_content(tmp_path: Path) -> None:
    def version(text: str) -> str:
        (tmp_path / "p.toml").write_text(text)
        return load_prompt(tmp_path / "p.toml", None).version

    assert version(PROMPT) == version("# a comment\n" + PROMPT.replace('id = "ticket"', 'id = "other"'))
    assert version(PROMPT) != version(PROMPT.replace("Label", "Name"))


@pytest.mark.parametrize("text", ["{", "{}", "{a!r}", "{a:>3}", "a}"])
def test_other_placeholders_are_refused_by_their_key(text: str) -> None:
    with pytest.raises(ConfigError, match=r"prompt\.toml: body\.messages\[0\]\.content"):
        Prompt("prompt.toml", "id", CHAT, {"messages": [{"content": text}]})


@pytest.mark.parametrize(
    "change, endpoint, key",
    [
        (("id = ", "name = "), None, "name"),
        (('id = "ticket"', ""), None, "id"),
        (('endpoint = "/v1/chat/completions"', ""), None, "endpoint"),
        (("/v1/chat", "/v2/chat"), None, "endpoint"),
        (("", ""), "/v1/responses", "endpoint"),
    ],
)
def test_what_a_template_must_say(tmp_path: Path, change: tuple[str, str], endpoint: str | None, key: str) -> None:
    (tmp_path / "p.toml").write_text(PROMPT.replace(*change))
    with pytest.raises(ConfigError, match=f"^{key} .*p.toml"):
        load_prompt(tmp_path / "p.toml", endpoint)


def test_a_template_that_is_no_toml(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text("body =")
    with pytest.raises(UsageError, match=r"p\.toml"):
        load_prompt(tmp_path / "p.toml", CHAT)


@pytest.mark.parametrize("number", [str(2**64), "nan", "-inf"])
def test_a_number_that_could_not_go_out_unchanged_is_refused(tmp_path: Path, number: str) -> None:
    (tmp_path / "p.toml").write_text(PROMPT.replace("max_completion_tokens = 4", f"seed = {number}"))
    with pytest.raises(ConfigError, match=r"p\.toml: body\.seed = .*64 bits"):
        load_prompt(tmp_path / "p.toml", CHAT)


def test_a_template_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"p\.toml: No such file") as caught:
        load_prompt(tmp_path / "p.toml", CHAT)
    assert "Errno" not in caught.value.message
