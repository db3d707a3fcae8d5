"""What the verbs share: the configuration argument, `--json` and `--debug`, and printing: what documents, providers or
file names hold must not steer the reader's terminal."""

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import orjson

from embedfill.errors import EmbedfillError

Command = TypeVar("Command", bound=Callable[..., Any])
PRICE_UNKNOWN = "unknown (set embedding.price_per_million)"
SPENT_UNKNOWN = "unknown (set embedding.price_per_million; with --sync-tail also embedding.sync_price_per_million)"
_USD_DIGITS = 10  # sums of floats are not exact


def config_argument(function: Callable[..., int]) -> Callable[..., int]:
    """The argument CONFIG. Where a hint speaks of it, its value stands there instead."""

    @functools.wraps(function)
    def named(config: Path, **given: Any) -> int:  # noqa: ANN401 - click's own
        try:
            return function(config=config, **given)
        except EmbedfillError as error:
            error.hint = error.hint.replace("CONFIG", str(config))
            raise

    return click.argument("config", type=click.Path(path_type=Path), metavar="CONFIG")(named)


def output_options(function: Command) -> Command:
    """`--json` and `--debug`; the second is read by the caller of the verb, so it takes no argument here."""
    debug = click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback with an error.")
    return click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")(debug(function))


def show(value: object, as_json: bool, lines: Callable[[], list[str]]) -> None:
    """The result on stdout: as JSON, or as the lines for a reader."""
    if as_json:
        show_json(value)
    else:
        for line in lines():
            click.echo(printable(line))


def show_json(value: object) -> None:
    """One JSON object on stdout, UTF-8 whatever the locale says."""
    try:
        data = orjson.dumps(_rounded(value), option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError:  # a string that is not UTF-8, such as the name of a file: it goes out escaped
        data = json.dumps(_rounded(value)).encode()
    click.echo(data)


def _rounded(value: object, name: str = "") -> object:
    """With sums of money as a reader would write them."""
    if isinstance(value, float) and name.endswith("_usd"):
        return round(value, _USD_DIGITS)
    if isinstance(value, dict):
        return {key: _rounded(one, str(key)) for key, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list) else value


def say(message: str) -> None:
    """A message for the reader, on stderr."""
    for line in message.splitlines():
        click.echo(printable(line), err=True)


def printable(text: str) -> str:
    """Without control characters."""
    return "".join(character if character.isprintable() else " " for character in text)


def money(usd: float | None, unknown: str = PRICE_UNKNOWN) -> str:
    if usd is None:
        return unknown
    if usd >= 1:
        return f"${usd:,.2f}"
    digits = min(_USD_DIGITS, max(4, 1 - math.floor(math.log10(usd)))) if usd > 0 else 0  # two that say something
    return f"${usd:.{digits}f}"


def size(count: float) -> str:
    """Bytes for a reader."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def plural(count: int, noun: str, ending: str = "s") -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}{ending}"


def span(seconds: float) -> str:
    """A length of time for a reader, in its two largest units."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    days, hours = minutes // 1440, minutes // 60 % 24
    if days:
        return f"{days} d {hours} h" if hours else f"{days} d"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"
