"""`embedfill status`: where a store stands. Changes nothing."""

from dataclasses import asdict
from pathlib import Path

import click

from embedfill.cli.common import config_argument, output_options, show, size
from embedfill.cli.flight import flight_lines
from embedfill.cli.rejections import lines_of
from embedfill.config import load
from embedfill.rejections import Rejections
from embedfill.status import Standing, standing


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
        f"shards    {shards}; {stands.planned:,} texts planned, {stands.in_flight:,} in flight, "
        f"{stands.with_vectors:,} with vectors",
        *flight_lines(stands, "text"),
    ]
