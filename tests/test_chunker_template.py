"""Templates: what is allowed, how braces and odd values are treated, and what the error says."""

import pytest

from embedfill.chunker.template import Template
from embedfill.errors import ConfigError


def test_renders_names_and_escapes() -> None:
    template = Template("{{{title}}} of {section}: {text}")
    assert template.names == ("title", "section")
    assert template.render("{text} {0}", {"title": "a{b}", "section": "§"}) == "{a{b}} of §: {text} {0}"


def test_the_plain_template_returns_the_passage_itself() -> None:
    passage = "some text"
    assert Template("{text}").plain
    assert Template("{text}").render(passage, {}) is passage
    assert not Template("{text} ").plain


def test_a_name_twice_is_one_field() -> None:
    template = Template("{t} {text} {t}")
    assert template.names == ("t",)
    assert template.render("x", {"t": "y"}) == "y x y"


def test_a_query_template_has_its_own_placeholder_and_key() -> None:
    template = Template("query: {query}", "query", "embedding.query_template")
    assert template.render("why?", {}) == "query: why?"
    with pytest.raises(ConfigError, match=r"embedding\.query_template = 'why'.*\{query\}"):
        Template("why", "query", "embedding.query_template")


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "no placeholder",
        "{text} {text}",
        "{text} {}",
        "{text} {0}",
        "{text} {a.b}",
        "{text} {a[0]}",
        "{text!r}",
        "{text:>9}",
        "{text} {a!s}",
        "{text} {",
        "}{text}",
        "{text} {a b}",
        "{{text}}",
    ],
)
def test_refuses_all_but_plain_names(wrong: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Template(wrong)
    assert caught.value.key == "embedding.template"
    assert caught.value.value == wrong
    assert "{text}" in caught.value.allowed
