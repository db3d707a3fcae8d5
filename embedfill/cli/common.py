"""What the verbs share: the configuration argument, `--json` and `--debug`, and printing a result."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import orjson

Command = TypeVar("Command", bound=Callable[..., Any])


def config_argument(function: Command) -> Command:
    return click.argument("config", type=click.Path(path_type=Path), metavar="CONFIG")(function)


def output_options(function: Command) -> Command:
    """`--json` and `--debug`; the second is read by the caller of the verb, so it takes no argument here."""
    debug = click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback with an error.")
    return click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")(debug(function))


def show(value: object, as_json: bool, lines: Callable[[], list[str]]) -> None:
    """The result on stdout: as JSON, or as the lines for a reader."""
    if as_json:
        click.echo(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY).decode())
    else:
        for line in lines():
            click.echo(line)


def money(usd: float | None) -> str:
    if usd is None:
        return "unknown (set embedding.price_per_million)"
    return "$0" if usd == 0 else f"${usd:.4f}" if usd < 1 else f"${usd:,.2f}"


def size(count: float) -> str:
    """Bytes for a reader."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
