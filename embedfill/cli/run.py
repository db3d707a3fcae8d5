"""`embedfill run`: brings the published index in step with the corpus."""

import sys
from pathlib import Path

import click

from embedfill import run as library
from embedfill.cli.common import SPENT_UNKNOWN, config_argument, money, output_options, plural, say, show, size
from embedfill.cli.plan import lines_of
from embedfill.cli.progress import Console
from embedfill.config import load
from embedfill.errors import UsageError
from embedfill.estimate import Estimate

_REJECTIONS, _PENDING, _STOPPED = 3, 4, 5


@click.command("run")
@config_argument
@click.option("--no-wait", is_flag=True, help="Do what can be done now and leave; exit 4 while batches are out.")
@click.option("--yes", is_flag=True, help="Do not ask before the first paid submission.")
@click.option(
    "--sync-tail", type=click.IntRange(min=0), default=0, metavar="N",
    help="Send what is missing through the synchronous endpoint, at its own price, if it is at most N texts.",
)  # fmt: skip
@output_options
def command(config: Path, no_wait: bool, yes: bool, sync_tail: int, as_json: bool) -> int:
    """Embed what is missing through the Batch API, index it, measure the recall, publish.

    Safe to interrupt and to run again at any time: what was paid for is never paid for again.

    \b
    Examples:
      embedfill run embedfill.toml
      embedfill run embedfill.toml --no-wait --yes   # for cron: run it again later
      embedfill run embedfill.toml --sync-tail 500   # a few new texts need not wait a day
    """
    loaded = load(config)

    def confirm(expected: Estimate) -> bool:
        return yes or loaded.batch.budget_usd is not None or _ask(expected, sync_tail)

    options = library.Options(wait=not no_wait, sync_tail=sync_tail, progress=Console(), confirm=confirm)
    summary = library.run(loaded, options)
    show(as_dict(summary), as_json, lambda: _lines(summary, config))
    return _exit_code(summary)


def as_dict(summary: library.Summary) -> dict[str, object]:
    names = (
        "snapshot", "documents", "chunks", "texts", "rejected", "embedded", "reused", "batches", "prompt_tokens",
        "cost_usd", "index", "seconds", "planned", "in_flight", "finished",
    )  # fmt: skip
    stopped = summary.parked.as_dict() if summary.parked else {}
    return {name: getattr(summary, name) for name in names} | stopped


def _ask(expected: Estimate, sync_tail: int) -> bool:
    """Shows the plan and asks; without a terminal nobody can answer."""
    say("\n".join(lines_of(expected)))
    if expected.new <= sync_tail:
        price = money(expected.sync_cost_usd, "unknown (set embedding.sync_price_per_million)")
        say(f"with --sync-tail they go through the synchronous endpoint instead: price {price}")
    if not sys.stdin.isatty():
        raise UsageError("this run would spend money and nobody can be asked", "pass --yes, or set batch.budget_usd")
    click.echo("Submit this? [y/N] ", err=True, nl=False)  # stdout is for the result alone
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _exit_code(summary: library.Summary) -> int:
    if summary.parked is not None:
        say(f"stopped: {summary.parked.message}\n  {summary.parked.hint}")
        return _STOPPED
    if not summary.finished:
        return _PENDING
    return _REJECTIONS if summary.rejected else 0


def _lines(summary: library.Summary, config: Path) -> list[str]:
    lines = [*_embedded(summary), *_to_do(summary)]
    if summary.snapshot:
        index, before = summary.index, "" if summary.finished else "before: "
        lines += [
            f"published {before}{summary.documents:,} documents, {summary.chunks:,} chunks, {summary.texts:,} texts"
            f" ({summary.reused:,} of them embedded before)",
            f"index {index['kind']}: {index['rows']:,} rows, {size(index['bytes'])}, recall@10 {index['recall_at_10']:.3f}",
        ]
    if summary.rejected:
        stand = f"{plural(summary.rejected, 'rejection')} {'stands' if summary.rejected == 1 else 'stand'}"
        lines.append(f"{stand}: see with: embedfill rejections {config}")
    lines.append("seconds: " + ", ".join(f"{stage} {taken:.1f}" for stage, taken in summary.seconds.items()))
    return lines


def _embedded(summary: library.Summary) -> list[str]:
    if summary.embedded or (summary.batches and summary.finished):
        return [
            f"embedded {summary.embedded:,} texts in {plural(summary.batches, 'batch', 'es')}: "
            f"{summary.prompt_tokens:,} tokens, {money(summary.cost_usd, SPENT_UNKNOWN)}"
        ]
    return ["nothing to embed: every text has its vector"] if summary.finished else []


def _to_do(summary: library.Summary) -> list[str]:
    """What stands between this and a publication."""
    if summary.finished:
        return []
    out, planned = plural(summary.in_flight, "text"), plural(summary.planned, "text")
    lines = [f"batches are out with {out}; run it again later to collect them"] if summary.in_flight else []
    lines += [f"still to be sent: {planned}"] if summary.planned else []
    return lines or ["not finished: texts are still without a vector"]
