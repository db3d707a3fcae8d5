"""`embedfill probe`: what the configured endpoint can do, as settings."""

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click

from embedfill import probe as library
from embedfill.cli.common import config_argument, money, output_options, say, show
from embedfill.cli.merge import snippet
from embedfill.cli.progress import Console
from embedfill.cli.rewrite import Rewrite
from embedfill.config import load
from embedfill.errors import UsageError
from embedfill.features import POSSIBLE, Settings

_WORDS = {True: "yes", False: "no", None: "not seen"}


@click.command("probe")
@config_argument
@click.option("--yes", is_flag=True, help="Do not ask before it is paid for.")
@click.option("--write", type=click.Path(path_type=Path), metavar="FILE", help="Write CONFIG with the settings in it.")
@output_options
def command(config: Path, yes: bool, write: Path | None, as_json: bool) -> int:
    """Find out with one tiny batch what the configured endpoint can do, and print the settings that follow.

    Interrupted, it cancels its batch. Its files are deleted at the end.

    \b
    Examples:
      embedfill probe embedfill.toml                          # TOML on stdout
      embedfill probe embedfill.toml --write embedfill.toml   # put into the configuration
    """
    loaded = load(config)
    rewrite = Rewrite(config, write) if write is not None else None
    if rewrite is not None:
        rewrite.check(POSSIBLE)  # before anything is paid for
    options = library.Options(confirm=lambda cost: yes or _ask(cost), progress=Console())
    found = library.probe(loaded, options)
    for warning in found.warnings:
        say(f"note: {warning}")
    error = _written(rewrite, found.settings) if rewrite is not None else None
    show({**asdict(found), **(error.as_dict() if error else {})}, as_json, lambda: list(_lines(found)))
    return error.exit_code if error else 0


def _ask(cost: library.Cost) -> bool:
    """Says the price and asks; without a terminal nobody can answer."""
    say(f"a probe sends one batch of at most {cost.tokens:,} tokens; price: {money(cost.usd)} at most")
    if not sys.stdin.isatty():
        raise UsageError("this probe would spend money and nobody can be asked", "pass --yes")
    click.echo("Send it? [y/N] ", err=True, nl=False)  # stdout is for the result alone
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _written(rewrite: Rewrite, settings: Settings) -> UsageError | None:
    """Writes and says so; an error is said and given back, for what was found is to be shown all the same."""
    try:
        rewrite.write(settings)
    except UsageError as error:
        say(f"error: {error.message}")
        say(f"  {error.hint or 'put in what was found by hand'}")
        return error
    say(f"wrote {rewrite.path}")
    return None


def _lines(found: library.Probe) -> Iterator[str]:
    """TOML: what was seen as comments, then the settings."""
    for name, value in asdict(found.features).items():
        shown = _WORDS[value] if value is None or isinstance(value, bool) else str(value)
        yield f"# {name.replace('_', ' '):<20}{shown}"
    yield f"# {found.prompt_tokens:,} tokens, {money(found.cost_usd)}"
    yield from snippet(found.settings).splitlines()
