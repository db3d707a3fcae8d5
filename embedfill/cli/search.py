"""`embedfill search`: the best chunks for a query."""

import shutil
import textwrap
from dataclasses import asdict
from pathlib import Path

import click

from embedfill.cli.common import config_argument, output_options, printable, show
from embedfill.config import load
from embedfill.records import Hit
from embedfill.retrieve import Retriever

_TITLES = ("title", "page_title", "heading", "name")
_PASSAGE_CHARS = 400


@click.command("search")
@config_argument
@click.argument("query")
@click.option("-k", default=10, show_default=True, type=click.IntRange(1, 1000), help="How many hits.")
@output_options
def command(config: Path, query: str, k: int, as_json: bool) -> int:
    """Search the published index. The query is embedded with the model that the index was made with.

    \b
    Example:
      embedfill search embedfill.toml "how do I sort a list?" -k 5
    """
    hits = Retriever.open(load(config)).search(query, k)
    show({"query": query, "hits": [asdict(hit) for hit in hits]}, as_json, lambda: lines_of(hits))
    return 0


def lines_of(hits: list[Hit]) -> list[str]:
    if not hits:
        return ["no hits"]
    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    lines = []
    for hit in hits:
        titles = list(dict.fromkeys(str(hit.metadata[name]) for name in _TITLES if hit.metadata.get(name)))
        lines.append(f"{hit.rank:>3}  {hit.score:.3f}  {' · '.join(titles) or hit.document_id}")
        if titles:
            lines.append(f"            {hit.document_id} [{hit.start}:{hit.end}]")
        lines += textwrap.wrap(
            printable(_shortened(hit.text)), width, initial_indent=" " * 12, subsequent_indent=" " * 12
        )
    return lines


def _shortened(passage: str) -> str:
    """The beginning of a passage, in one line; cut between words where it has any."""
    words = " ".join(passage.split())
    if len(words) <= _PASSAGE_CHARS:
        return words
    cut = words.rfind(" ", _PASSAGE_CHARS * 3 // 4, _PASSAGE_CHARS)
    return words[: cut if cut > 0 else _PASSAGE_CHARS] + " …"
