"""`embedfill plan`: what a run would send and cost, before any spending."""

from dataclasses import asdict
from pathlib import Path

import click

from embedfill.cli.common import config_argument, money, output_options, plural, show, size
from embedfill.cli.progress import Console
from embedfill.config import load
from embedfill.estimate import Estimate, estimate
from embedfill.project import open_project
from embedfill.run import scan
from embedfill.tracker.state import State


@click.command("plan")
@config_argument
@output_options
def command(config: Path, as_json: bool) -> int:
    """Say what `run` would send and cost: documents, chunks, texts, how many are new, tokens, batches, bytes, price.

    Nothing is submitted. Chunks are kept in the store, so that the run does not make them again.

    \b
    Example:
      embedfill plan embedfill.toml --json
    """
    project = open_project(load(config))
    _, catalog = scan(project, Console())
    expected = estimate(project, catalog, State(project.store, project.cache, project.space.id))
    show(asdict(expected), as_json, lambda: lines_of(expected))
    return 0


def lines_of(expected: Estimate) -> list[str]:
    price = expected.price_per_million
    per = f" at ${price:g} per million tokens (prices of {expected.prices_dated})" if price else ""
    return [
        f"corpus   {expected.documents:,} documents, {expected.chunks:,} chunks, {expected.texts:,} distinct texts",
        f"rejected {expected.rejected:,}",
        f"to embed {expected.new:,} new texts, {expected.prompt_tokens:,} tokens ({expected.in_flight:,} texts in flight)",
        f"to send  {plural(expected.batches, 'batch', 'es')} with {plural(expected.requests, 'request')}, {size(expected.bytes)} to upload",
        f"price    {money(expected.cost_usd)}{per}",
    ]
