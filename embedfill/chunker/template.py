"""Parses `"{title}: {text}"` once and fills it in. Plain `{name}` only: no attributes, indexes or formats."""

from collections.abc import Mapping
from string import Formatter

from embedfill.errors import ConfigError

_ALLOWED = "plain {{name}} placeholders, exactly one of them {{{0}}}; write a brace as {{{{ or }}}}"


class Template:
    """`names` are the fields that it needs besides the placeholder; `plain` is true where it adds nothing at all."""

    def __init__(self, template: str, placeholder: str = "text", key: str = "embedding.template") -> None:
        self._placeholder = placeholder
        self._parts = _parse(template, placeholder, key)
        names = [name for _, name in self._parts if name is not None]
        if names.count(placeholder) != 1:
            raise ConfigError(key, template, _ALLOWED.format(placeholder))
        self.names = tuple(dict.fromkeys(name for name in names if name != placeholder))
        self.plain = self._parts == [("", placeholder)]

    def render(self, passage: str, fields: Mapping[str, str]) -> str:
        """The template with `passage` and the values of `fields`; braces in these are ordinary characters."""
        if self.plain:
            return passage
        pieces = []
        for literal, name in self._parts:
            pieces.append(literal)
            if name is not None:
                pieces.append(passage if name == self._placeholder else fields[name])
        return "".join(pieces)


def _parse(template: str, placeholder: str, key: str) -> list[tuple[str, str | None]]:
    """Literal texts, each with the name that follows it. Raises ConfigError for all that is no plain name."""
    parts: list[tuple[str, str | None]] = []
    try:
        parsed = list(Formatter().parse(template))
    except ValueError as error:
        raise ConfigError(key, template, f"{error}; allowed are {_ALLOWED.format(placeholder)}") from error
    for literal, name, spec, conversion in parsed:
        if name is not None and (not name.isidentifier() or spec or conversion):
            raise ConfigError(key, template, _ALLOWED.format(placeholder))
        parts.append((literal, name))
    return parts
