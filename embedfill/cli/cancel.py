"""`embedfill cancel`: ends what is in flight and keeps what was done."""

import sys
from dataclasses import asdict
from pathlib import Path

import click

from embedfill import cancel as library
from embedfill.cli.common import PRICE_UNKNOWN, config_argument, money, output_options, plural, say, show
from embedfill.cli.progress import Console
from embedfill.config import load
from embedfill.errors import UsageError

_PENDING = 4


@click.command("cancel")
@config_argument
@click.option("--no-wait", is_flag=True, help="Ask for it and leave; exit 4 while batches have not ended.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@output_options
def command(config: Path, no_wait: bool, yes: bool, as_json: bool) -> int:
    """Cancel what is in flight and collect what was done.

    Requests that a provider has finished are billed, so their vectors are kept. Nothing new is submitted; the next run
    sends what is missing. Stop a run that is at work first: it would go on submitting.

    \b
    Examples:
      embedfill cancel embedfill.toml
      embedfill cancel embedfill.toml --yes --no-wait
    """
    loaded = load(config)

    def confirm(out: library.Cancelled) -> bool:
        return yes or ask(out, "text")

    done = library.cancel(loaded, library.Options(wait=not no_wait, progress=Console(), confirm=confirm))
    show(asdict(done), as_json, lambda: lines_of(done, "text", "vector", "embedfill run"))
    return 0 if done.finished else _PENDING


def ask(out: library.Cancelled, noun: str) -> bool:
    """Whether to cancel what is out; without a terminal nobody can answer."""
    say(f"{plural(out.batches, 'batch', 'es')} with {plural(out.texts, noun)} in flight")
    if not sys.stdin.isatty():
        raise UsageError("this would cancel batches and nobody can be asked", "pass --yes")
    click.echo("Cancel them? [y/N] ", err=True, nl=False)  # stdout is for the result alone
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def lines_of(done: library.Cancelled, noun: str, brought: str, run: str, unknown: str = PRICE_UNKNOWN) -> list[str]:
    """For a reader: batches hold `noun`s and bring `brought`s; `run` is the command that goes on."""
    if not done.batches:
        return ["nothing is in flight"]
    lines = [
        f"cancelled {plural(done.batches, 'batch', 'es')} with {plural(done.texts, noun)}: {done.ended:,} have ended and"
        f" brought {plural(done.vectors, brought)}, {done.prompt_tokens:,} tokens, {money(done.cost_usd, unknown)}"
    ]
    if not done.finished:
        lines.append(f"the others are about to end: run it, or {run}, later to collect them")
    return lines
