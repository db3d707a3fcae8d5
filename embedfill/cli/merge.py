"""Settings laid into the text of a configuration, whose comments and order stay as they are."""

import re
import tomllib
from collections.abc import Mapping
from typing import Any

import orjson

from embedfill.errors import UsageError


def merged(text: str, settings: Mapping[str, Mapping[str, Any]]) -> str:
    """The configuration with these settings, by table. Raises UsageError for one that is written in a way in which
    lines cannot be told."""
    lines = text.splitlines()
    for table, values in settings.items():
        for key, value in values.items():
            _set(lines, table, key, f"{key} = {toml(value)}")
    made = "\n".join(lines) + "\n"
    if not _holds(made, settings):
        raise UsageError("this configuration cannot be edited line by line", "put in what was found by hand")
    return made


def snippet(settings: Mapping[str, Mapping[str, Any]]) -> str:
    """The settings alone."""
    return "\n".join(
        line
        for table, values in settings.items()
        for line in (f"[{table}]", *(f"{key} = {toml(value)}" for key, value in values.items()))
    )


def toml(value: object) -> str:
    """A string, number or truth value as TOML."""
    return orjson.dumps(value).decode()


def _set(lines: list[str], table: str, key: str, line: str) -> None:
    start = next((at for at, old in enumerate(lines) if re.match(rf"\s*\[\s*{table}\s*\]", old)), None)
    if start is None:
        lines += ["", f"[{table}]", line]
        return
    end = next((at for at in range(start + 1, len(lines)) if re.match(r"\s*\[", lines[at])), len(lines))
    old = next((at for at in range(start + 1, end) if re.match(rf"\s*{key}\s*=", lines[at])), None)
    if old is None:
        lines.insert(start + 1, line)
    else:
        comment = re.search(r"\s+#[^\"']*$", lines[old])
        lines[old] = line + (comment[0] if comment else "")


def _holds(text: str, settings: Mapping[str, Mapping[str, Any]]) -> bool:
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    return all(
        isinstance(found.get(table), dict) and found[table].get(key) == value
        for table, values in settings.items()
        for key, value in values.items()
    )
