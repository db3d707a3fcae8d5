"""`embedfill status`: where a store stands. Changes nothing."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click

from embedfill.cli.common import config_argument, money, output_options, plural, show, size
from embedfill.config import Config, load
from embedfill.records import Rejection
from embedfill.status import Standing, rejections, standing


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
        value["rejections"] = [asdict(rejection) for rejection in rejections(loaded)]
    show(value, as_json, lambda: [*_lines(stands), *(_rejected(loaded) if with_rejections else ())])
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
    ]


def _rejected(config: Config) -> Iterator[str]:
    for rejection in rejections(config):
        yield _rejection_line(rejection)


def _rejection_line(rejection: Rejection) -> str:
    where = (
        f"{rejection.source.file} row {rejection.source.row}"
        if rejection.source
        else f"text {rejection.text_id}, in document {rejection.document_id}"
    )
    return f"rejected  {rejection.code}  {where}: {rejection.message}"
