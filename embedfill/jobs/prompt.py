"""A prompt template: a TOML file with an endpoint's body whose strings name columns in braces. Fills it in, row by row.

id = "ticket_id"                      # the column that names each request
endpoint = "/v1/chat/completions"

[body]
model = "gpt-4.1-mini"
max_completion_tokens = 5
[[body.messages]]
role = "user"
content = "Label this ticket: {subject}"
"""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import Formatter
from typing import Any

import orjson

from embedfill import ids
from embedfill.errors import ConfigError, UsageError
from embedfill.jobs.endpoints import ENDPOINTS
from embedfill.jobs.request import NOT_EXACT, too_large

_PLAIN = "plain {{column}} placeholders; write a brace as {{{{ or }}}}".format()
Part = tuple[bool, str]  # (whether it is a column's name, the name or a piece of JSON)


class Prompt:
    """`version` is the hash of endpoint and body: an equal prompt has an equal version. `columns` are those it names."""

    def __init__(self, source: str, id_column: str, endpoint: str, body: Mapping[str, Any]) -> None:
        self.id_column = id_column
        self.endpoint = endpoint
        self.content: dict[str, Any] = {"endpoint": endpoint, "body": body}
        self._parts = _merged(_json_parts(body, f"{source}: body"))
        self.version = ids.digest_hex("prompt", ids.canonical(self.content))[:16]
        self.columns = tuple(dict.fromkeys(text for is_name, text in self._parts if is_name))

    def fill(self, values: Mapping[str, Sequence[str]], rows: int) -> Iterator[str]:
        """The bodies of rows as JSON; `values` holds a list of `rows` strings for each column."""
        pieces = [map(_inside, values[text]) if is_name else [text] * rows for is_name, text in self._parts]
        return map("".join, zip(*pieces))


def load_prompt(path: Path, endpoint: str | None) -> Prompt:
    """Reads a template. `endpoint` is the caller's, which the file may leave out but not gainsay. Raises UsageError and
    ConfigError."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        words = (error.strerror or error) if isinstance(error, OSError) else error
        raise UsageError(f"{path}: {words}", "a template is a TOML file with id and a [body]") from None
    source = str(path)
    for key in raw.keys() - {"id", "endpoint", "body"}:
        raise ConfigError(key, raw[key], "no such key; known here: id, endpoint, body", source)
    own = raw.get("endpoint", endpoint)
    if own is None:
        raise ConfigError("endpoint", None, "is required, here or as --endpoint", source)
    if own not in ENDPOINTS or (endpoint and own != endpoint):
        raise ConfigError("endpoint", own, f"one of {', '.join(ENDPOINTS)}, and the same as --endpoint", source)
    column, body = raw.get("id"), raw.get("body")
    if not isinstance(column, str) or not column:
        raise ConfigError("id", column, "is required: the column that names each request", source)
    if not isinstance(body, dict):
        raise ConfigError("body", body, "is required: a table with the request's body", source)
    return Prompt(source, column, own, body)


def _inside(value: str) -> str:
    """A string as it stands inside JSON's quotes."""
    return orjson.dumps(value)[1:-1].decode()


def _json_parts(value: object, key: str) -> Iterator[Part]:
    """The JSON of a value, in pieces, with the names of columns between them."""
    if isinstance(value, dict):
        yield False, "{"
        for number, (name, item) in enumerate(value.items()):
            yield False, ("," if number else "") + orjson.dumps(name).decode() + ":"
            yield from _json_parts(item, f"{key}.{name}")
        yield False, "}"
    elif isinstance(value, list):
        yield False, "["
        for number, item in enumerate(value):
            yield False, "," if number else ""
            yield from _json_parts(item, f"{key}[{number}]")
        yield False, "]"
    elif isinstance(value, str):
        yield from _string_parts(value, key)
    elif too_large(value):
        raise ConfigError(key, value, NOT_EXACT)
    else:
        yield False, orjson.dumps(value).decode()


def _string_parts(text: str, key: str) -> Iterator[Part]:
    yield False, '"'
    try:
        for literal, name, spec, conversion in Formatter().parse(text):
            if name == "" or spec or conversion:
                raise ConfigError(key, text, _PLAIN)
            yield False, _inside(literal)
            if name is not None:
                yield True, name
    except ValueError as error:
        raise ConfigError(key, text, f"{error}; allowed are {_PLAIN}") from None
    yield False, '"'


def _merged(parts: Iterator[Part]) -> list[Part]:
    """Neighbouring pieces of JSON as one."""
    found: list[Part] = []
    for is_name, text in parts:
        if not is_name and found and not found[-1][0]:
            found[-1] = (False, found[-1][1] + text)
        else:
            found.append((is_name, text))
    return found
