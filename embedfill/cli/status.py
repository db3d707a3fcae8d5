"""`embedfill status`: where a store stands. Changes nothing."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click

from embedfill.cli.common import config_argument, money, output_options, plural, show, size, span
from embedfill.cli.rejections import lines_of
from embedfill.config import load
from embedfill.rejections import Rejections
from embedfill.status import Standing, standing

_SHOWN = 20


@click.command("status")
@config_argument
@click.option("--rejections", "with_rejections", is_flag=True, help="List what was left out, and why.")
@output_options
def command(config: Path, with_rejections: bool, as_json: bool) -> int:
    """Tell what is published, what is in flight, what was spent, and what was rejected.

    \b
    Example:
      embedfill status embedfill.toml --rejections
    """
    loaded = load(config)
    stands = standing(loaded)
    value = asdict(stands)
    if with_rejections:
        value["rejections"] = [asdict(rejection) for rejection in Rejections(loaded)]
    show(value, as_json, lambda: [*_lines(stands), *(lines_of(Rejections(loaded)) if with_rejections else ())])
    return 0


def _lines(stands: Standing) -> list[str]:
    index = stands.index
    shards = ", ".join(f"{count:,} {state}" for state, count in sorted(stands.shards.items())) or "none"
    lines = [f"store     {stands.store}"]
    if stands.snapshot:
        lines += [
            f"published {stands.documents:,} documents, {stands.chunks:,} chunks, {stands.texts:,} texts"
            f" (publication {stands.published}), {stands.rejected:,} rejected",
            f"index     {index['kind']}, {size(index['bytes'])}, recall@10 {index['recall_at_10']:.3f}",
        ]
    else:
        lines.append("published nothing yet")
    return [
        *lines,
        f"shards    {shards}; {stands.in_flight:,} texts in flight, {stands.with_vectors:,} with vectors",
        f"spent     {stands.prompt_tokens:,} tokens in {plural(stands.batches, 'batch', 'es')}, {money(stands.cost_usd)}",
        *_money_left(stands),
        *_out(stands),
    ]


def _money_left(stands: Standing) -> list[str]:
    if not stands.batches_out and stands.budget_usd is None:
        return []
    left = f"; {money(stands.left_usd)} of {money(stands.budget_usd)} left" if stands.budget_usd is not None else ""
    limit = f" of {stands.max_enqueued_tokens:,}" if stands.max_enqueued_tokens is not None else ""
    batches = plural(len(stands.batches_out), "batch", "es")
    return [f"in flight {batches}, {stands.enqueued_tokens:,}{limit} tokens, {money(stands.in_flight_usd)}{left}"]


def _out(stands: Standing) -> Iterator[str]:
    """The oldest batches: those that may need a look."""
    for one in stands.batches_out[:_SHOWN]:
        age = f"{span(one.age_s)} of {stands.window}" if one.age_s is not None else "age not known"
        near = "; near its window: what it does not finish goes out again" if one.near_window else ""
        name = one.id or f"(no batch known yet; shard {one.shard})"
        yield f"out       {name}  {one.texts:,} texts, {one.tokens:,} tokens, {age}{near}"
    if len(stands.batches_out) > _SHOWN:
        yield f"out       and {len(stands.batches_out) - _SHOWN:,} more: --json lists all"
