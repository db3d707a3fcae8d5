"""`embedfill rejections`: lists what was left out and why, exports it, and forgives chosen refusals."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click

from embedfill.chunker.policy import TRUNCATED
from embedfill.cli.common import config_argument, output_options, plural, printable, show
from embedfill.config import load
from embedfill.errors import UsageError
from embedfill.rejections import Rejections, Standing, check_export, export


@click.command("rejections")
@config_argument
@click.option(
    "--export", "path", type=click.Path(path_type=Path), help="Write them to a .parquet, .jsonl or .csv file."
)
@click.option("--retry", multiple=True, metavar="ID", help="Forgive a text, a document's texts, or `all`. Repeatable.")
@click.option("--retry-code", multiple=True, metavar="CODE", help="Forgive the texts of one code. Repeatable.")
@output_options
def command(config: Path, path: Path | None, retry: tuple[str, ...], retry_code: tuple[str, ...], as_json: bool) -> int:
    """List what was left out and why, export it, or forgive refusals.

    What is forgiven goes out again with the next run. Rows of the corpus need no such thing: mend them and run.

    \b
    Examples:
      embedfill rejections embedfill.toml
      embedfill rejections embedfill.toml --export left-out.csv
      embedfill rejections embedfill.toml --retry-code content_policy
    """
    if path and (retry or retry_code):
        raise UsageError("--export and --retry do not go together", "export first, then retry")
    loaded = load(config)
    if path:
        check_export(loaded, path, config)
    found = Rejections(loaded)
    if retry or retry_code:
        count = found.retry(retry, retry_code)
        show({"forgiven": count}, as_json, lambda: [_forgiven(count)])
    elif path:
        count = export(found, path)
        show({"exported": count, "path": str(path)}, as_json, lambda: [f"wrote {plural(count, 'rejection')} to {path}"])
    elif as_json:
        show({"rejections": [asdict(one) for one in found]}, as_json, list)
    else:
        line = ""
        for line in lines_of(found):
            click.echo(printable(line))
        if not line:
            click.echo("no rejections stand")
    return 0


def _forgiven(count: int) -> str:
    return f"{plural(count, 'text')} will go out again with the next run" if count else "no text stands refused"


def lines_of(rejections: Rejections) -> Iterator[str]:
    """A line for each rejection."""
    for one in rejections:
        yield f"{'cut short' if one.code == TRUNCATED else 'rejected'}  {one.code}  {_where(one)}: {one.message}"


def _where(one: Standing) -> str:
    if one.text_id is None:
        return f"{one.file} row {one.row}"
    return f"text {one.text_id}, " + (f"in document {one.document_id}" if one.document_id else "in no document now")
