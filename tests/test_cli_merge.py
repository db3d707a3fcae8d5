"""Settings laid into a configuration's text."""

import tomllib

import pytest

from embedfill.cli.merge import merged, snippet
from embedfill.errors import UsageError

TEXT = """# Mine.
store = "s"   # here

[embedding]
model = "m"           # the model
# dimensions = 3
encoding_format = "base64"   # "float" elsewhere

[index]
memory = "4GB"
"""


def test_what_is_there_is_replaced_and_what_is_not_is_put_in() -> None:
    made = merged(TEXT, {"embedding": {"encoding_format": "float", "dimensions": 5}, "batch": {"listing_delay_s": 2.5}})
    assert tomllib.loads(made) == {
        "store": "s",
        "embedding": {"model": "m", "encoding_format": "float", "dimensions": 5},
        "index": {"memory": "4GB"},
        "batch": {"listing_delay_s": 2.5},
    }
    for kept in ("# Mine.", "# here", "# the model", "# dimensions = 3"):
        assert kept in made


def test_the_same_twice_changes_nothing() -> None:
    settings = {"embedding": {"send_dimensions": True, "endpoint": "/a"}, "batch": {"inputs_per_request": 7}}
    once = merged(TEXT, settings)
    assert merged(once, settings) == once


def test_a_key_of_another_table_is_left_alone() -> None:
    made = merged("[a]\nkey = 1\n[b]\nkey = 2\n", {"b": {"key": 3}})
    assert tomllib.loads(made) == {"a": {"key": 1}, "b": {"key": 3}}


@pytest.mark.parametrize(
    "text",
    [
        'embedding = { model = "m" }\n',
        'embedding.model = "m"\n',
        '["embedding"]\nmodel = "m"\n',
        '[embedding]\n"key" = 2\n',
        '[embedding]\nkey = """\n1"""\n',
        "[embedding]\nkey = \"\"\ntemplate = '''\n[embedding]\nkey = 2\n'''\n[embedding]\n",
        'text = """\n[embedding]\n"""\n',  # what is only text must not be edited
        "embedding = 3\n",
    ],
)
def test_what_cannot_be_edited_by_lines_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="line by line"):
        merged(text, {"embedding": {"key": 1}})


def test_a_snippet_alone_is_toml() -> None:
    assert tomllib.loads(snippet({"a": {"x": 'q"', "y": True}, "b": {"z": 1.5}})) == {
        "a": {"x": 'q"', "y": True},
        "b": {"z": 1.5},
    }


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ('[t]\nk = "a\u2028b\u0085c"\n', '[t]\nx = 1\nk = "a\u2028b\u0085c"\n'),
        ('[t]\r\nx = 2  # it\'s "two"\r\n', '[t]\r\nx = 1  # it\'s "two"\r\n'),
        ('[t]\n\tx="a # \\" b"# "c\n', '[t]\n\tx=1# "c\n'),
        ("[t]\nx = 'a # b' # 'c'", "[t]\nx = 1 # 'c'"),
        ("[t]\r\nk = 2\r\n", "[t]\r\nx = 1\r\nk = 2\r\n"),
        ("k = 2\r\n", "k = 2\r\n\r\n[t]\r\nx = 1\r\n"),
        ("k = 2", "k = 2\n\n[t]\nx = 1\n"),
        ("[t]", "[t]\nx = 1\n"),
        ("[t]\r\n", "[t]\r\nx = 1\r\n"),
        ("", "[t]\nx = 1\n"),
    ],
)
def test_all_else_stays_to_the_letter(text: str, made: str) -> None:
    assert merged(text, {"t": {"x": 1}}) == made
    assert merged(made, {"t": {"x": 1}}) == made
