"""`embedfill prune`: removes what nothing refers to any more, in the store and at the provider."""

import re
import sys
from dataclasses import asdict
from pathlib import Path

import click

from embedfill import prune as library
from embedfill.cli.common import config_argument, output_options, plural, say, show, size
from embedfill.cli.progress import Console
from embedfill.config import load
from embedfill.errors import ConfigError, UsageError
from embedfill.prune import Amount, Pruned

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


@click.command("prune")
@config_argument
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--grace", default="7d", show_default=True, help="Leave what is younger alone: 12h, 7d, 2w …")
@click.option(
    "--keep", type=click.IntRange(1), default=library.KEEP, show_default=True, help="Newest publications kept."
)
@click.option("--settled-files", is_flag=True, help="Also the provider's files of batches that are settled.")
@click.option("--no-uploads", is_flag=True, help="Leave the provider alone.")
@output_options
def command(
    config: Path, dry_run: bool, yes: bool, grace: str, keep: int, settled_files: bool, no_uploads: bool, as_json: bool
) -> int:
    """Remove what nothing refers to any more, in the store and at the provider.

    That is old indexes, tables of old corpora, what killed runs left, and forgotten uploads. What is found in the store is
    only listed at first; a later prune removes it, after the grace, if still nothing refers to it. Vectors that were paid
    for are never removed. Runs may go on meanwhile.

    \b
    Examples:
      embedfill prune embedfill.toml --dry-run
      embedfill prune embedfill.toml --yes   # for cron: once a week
    """
    options = library.Options(
        dry_run=dry_run,
        settled_files=settled_files,
        uploads=not no_uploads,
        grace_s=seconds(grace),
        keep=keep,
        progress=Console(),
        confirm=lambda expected: yes or _ask(expected),
    )
    try:
        done = library.prune(load(config), options)
    except ConfigError as error:
        if error.key == "embedding.api_key_env":
            error.hint = "or leave the provider alone: --no-uploads"
        raise
    show(asdict(done), as_json, lambda: _lines(done))
    return 0


def seconds(text: str) -> float:
    """`"7d"` to 604,800. Raises UsageError for what is no such time."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhdw])\s*", text.lower())
    if not match:
        raise UsageError(f"--grace {text}: not a time", "give a number and a unit, such as 12h, 7d or 2w")
    return float(match[1]) * _UNITS[match[2]]


def _ask(expected: Pruned) -> bool:
    for line in _lines(expected):
        say(line)
    if not sys.stdin.isatty():
        raise UsageError("this would remove files and nobody can be asked", "pass --yes, or look with --dry-run")
    click.echo("Go on? [y/N] ", err=True, nl=False)  # stdout is for the result alone
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _lines(done: Pruned) -> list[str]:
    would = "would be " if done.dry_run else ""
    lines = [f"{would}removed   {kind:<11} {_amount(amount)}" for kind, amount in done.removed.items()]
    lines += [f"{would}doomed    {kind:<11} {_amount(amount)}" for kind, amount in done.doomed.items()]
    if done.waiting.objects:
        lines.append(f"doomed by an earlier visit, and in its grace: {_amount(done.waiting)}")
    if done.uploads.objects:
        lines.append(f"{would}deleted   uploads     {plural(done.uploads.objects, 'file')}, {size(done.uploads.bytes)}")
    if done.settled_files:
        lines.append(f"{would}deleted   settled     {plural(done.settled_files, 'file')}")
    return lines or ["nothing to prune"]


def _amount(amount: Amount) -> str:
    return f"{plural(amount.objects, 'object')}, {size(amount.bytes)}"
