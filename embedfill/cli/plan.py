"""`embedfill plan`: what a run would send and cost, before any spending."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import click

from embedfill.cli.common import config_argument, money, output_options, plural, show, size, span
from embedfill.cli.progress import Console
from embedfill.config import load
from embedfill.duration import Duration
from embedfill.estimate import Estimate, estimate
from embedfill.project import open_project
from embedfill.room import Room
from embedfill.run import scan


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
    expected = estimate(project, catalog, project.state())
    show(asdict(expected), as_json, lambda: lines_of(expected))
    return 0


def lines_of(expected: Estimate) -> list[str]:
    price = expected.price_per_million
    dated = f" (prices of {expected.prices_dated})" if expected.prices_dated else ""
    per = f" at ${price:g} per million tokens{dated}" if price else ""
    return [
        f"corpus   {expected.documents:,} documents, {expected.chunks:,} chunks, {expected.texts:,} distinct texts",
        f"rejected {expected.rejected:,}",
        f"to embed {expected.new:,} new texts, {expected.prompt_tokens:,} tokens ({expected.in_flight:,} texts in flight)",
        f"to send  {plural(expected.batches, 'batch', 'es')} with {plural(expected.requests, 'request')}, "
        f"{size(expected.bytes)} to upload, at most {size(expected.download_bytes)} to download",
        f"price    {money(expected.cost_usd)}{per}",
        *_over(expected),
        *_time(expected.duration),
        *_disk(expected.disk),
    ]


def _over(expected: Estimate) -> list[str]:
    cost, left = expected.cost_usd, expected.left_usd
    if cost is None or left is None or cost <= left:
        return []
    return [f"warning  that is more than the {money(left)} that batch.budget_usd leaves: the run will stop there"]


def _time(takes: Duration) -> list[str]:
    if not takes.waves:
        return []
    tokens, requests = takes.max_enqueued_tokens, takes.max_enqueued_requests
    limit = f" of {tokens:,} enqueued tokens" if tokens else f" of {requests:,} enqueued requests" if requests else ""
    waves = f"{takes.waves:,} waves{limit}: " if takes.waves > 1 else ""
    past = plural(takes.past_batches, "past batch", "es")
    if takes.worst_s is None:
        known = f"about {span(takes.typical_s)}, as fast as {past}" if takes.typical_s is not None else "not known yet"
    else:
        known = f"{span(takes.worst_s)} if every batch takes its whole window"
        if takes.typical_s is not None:
            known = f"about {span(takes.typical_s)} at the median of {past}; {known}"
    return [f"time     {waves}{known}"]


def _disk(disk: Mapping[str, Room]) -> list[str]:
    """What each folder will hold more, and a warning where that is more than there is."""
    lines = []
    for name, room in disk.items():
        parts = ", ".join(f"{part.replace('_', ' ')} {size(count)}" for part, count in room.parts.items() if count)
        free = f" of {size(room.free)} free" if room.free is not None else ""
        if room.needed:
            lines.append(f"disk     {name}: about {size(room.needed)}{free} ({parts})")
    short = ", ".join(room.path for room in disk.values() if room.short and room.needed)
    return [*lines, f"warning  there is too little room for that: free some at {short}"] if short else lines
