"""Settings laid into the text of a configuration, of which everything else stays as it is, to the letter."""

import re
import tomllib
from collections.abc import Mapping
from typing import Any

import orjson

from embedfill.errors import UsageError

_VALUE = r'"(?:[^"\\]|\\.)*"|\'[^\']*\'|[^\s#"\']+'  # of one line


def merged(text: str, settings: Mapping[str, Mapping[str, Any]]) -> str:
    """The configuration with these settings, by table. Raises UsageError for one that is written in a way in which
    lines cannot be told: nothing but those settings may come to mean something else."""
    lines = text.split("\n")  # TOML knows no other ends of lines; a "\r" before one stays where it is
    for table, values in settings.items():
        for key, value in values.items():
            _set(lines, table, key, toml(value))
    made = "\n".join(lines)
    if not _only_those(text, made, settings):
        raise UsageError(
            "this configuration cannot be edited line by line",
            "leave out --write and put in what is found by hand, or write its tables as [embedding] and [batch]",
        )
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


def _set(lines: list[str], table: str, key: str, value: str) -> None:
    start = next((at for at, old in enumerate(lines) if re.match(rf"\s*\[\s*{table}\s*\]", old)), None)
    if start is None:
        _append(lines, [f"[{table}]", f"{key} = {value}"])
        return
    end = next((at for at in range(start + 1, len(lines)) if re.match(r"\s*\[", lines[at])), len(lines))
    for at in range(start + 1, end):
        if old := re.match(rf"(\s*{key}\s*=\s*)(?:{_VALUE})", lines[at]):
            lines[at] = old[1] + value + lines[at][old.end() :]
            return
    if start + 1 == len(lines):  # the header ends the file
        _append(lines, [f"{key} = {value}"], apart=False)
    else:
        lines.insert(start + 1, f"{key} = {value}{_return(lines)}")


def _append(lines: list[str], new: list[str], apart: bool = True) -> None:
    """Puts lines behind the last one, which is empty where the text ends with an end of line."""
    ending = _return(lines)
    if lines[-1]:
        lines[-1] += ending
        lines.append("")
    lines[-1:] = [line + ending for line in (["", *new] if apart and lines != [""] else new)] + [""]


def _return(lines: list[str]) -> str:
    """What stands before the ends of lines of this text."""
    return "\r" if len(lines) > 1 and lines[0].endswith("\r") else ""


def _only_those(before: str, after: str, settings: Mapping[str, Mapping[str, Any]]) -> bool:
    try:
        wanted, found = tomllib.loads(before), tomllib.loads(after)
    except tomllib.TOMLDecodeError:
        return False
    for table, values in settings.items():
        if not isinstance(wanted.setdefault(table, {}), dict):
            return False
        wanted[table].update(values)
    return found == wanted
