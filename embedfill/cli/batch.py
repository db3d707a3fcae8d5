"""`embedfill batch`: prepared requests of any endpoint through the Batch API, and the comparison of two results."""

import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from embedfill.batchapi.models import ENDPOINTS
from embedfill.cli.batch_held import PRICE_UNKNOWN, cancel, status
from embedfill.cli.common import money, output_options, plural, say, show
from embedfill.cli.progress import Console
from embedfill.errors import ProviderError, UsageError
from embedfill.jobs.config import load_job
from embedfill.jobs.diff import Difference, Side
from embedfill.jobs.diff import diff as compare
from embedfill.jobs.estimate import JobEstimate
from embedfill.jobs.open import default_store, open_job
from embedfill.jobs.output import check_output
from embedfill.jobs.prompt import Prompt, load_prompt
from embedfill.jobs.results import RESULTS, Reason
from embedfill.jobs.run import JobOptions, JobSummary, estimate_job, run_job
from embedfill.jobs.table import find_tables

_REJECTIONS, _PENDING, _STOPPED = 3, 4, 5
_SHOW_REASONS = 5
_PATH = click.Path(path_type=Path)


@click.group("batch")
def command() -> None:
    """Run prepared requests of any endpoint through the Batch API; compare two results.

    \b
    Examples:
      embedfill batch run requests.jsonl --endpoint /v1/chat/completions --provider openai --out results.parquet
      embedfill batch status --out results.parquet
      embedfill batch diff before.parquet after.parquet
    """


command.add_command(status)
command.add_command(cancel)


@command.command("run")
@click.argument("requests", nargs=-1, type=_PATH)
@click.option("--endpoint", type=click.Choice(ENDPOINTS), help="Where the requests go; a template may say it instead.")
@click.option("--out", type=_PATH, required=True, help="The results, a Parquet file. It appears when it is whole.")
@click.option("--from", "tables", multiple=True, metavar="PARQUET", help="Rows to make requests of. Repeatable.")
@click.option("--template", type=_PATH, help="With --from: a TOML file with the request's body and {column}s in it.")
@click.option("--store", help="Where the state lives: a directory or s3://…  [default: OUT.store]")
@click.option("--config", type=_PATH, help="A TOML file with [provider], [batch], [prices] and [cache].")
@click.option("--provider", help="Who runs the batches: openai, generic, azure, doubleword, …")
@click.option("--base-url", help="The provider's address.")
@click.option("--budget-usd", type=float, help="Nothing is submitted that could exceed it.")
@click.option("--max-enqueued-tokens", type=int, help="Prompt tokens that may be out at once.")
@click.option("--assume-output-tokens", type=int, help="What a request without a limit may generate, for the price.")
@click.option("--assume-media-tokens", type=int, help="What an image, a recording or a file in a prompt may come to.")
@click.option("--dry-run", is_flag=True, help="Say what would be sent and what it may cost; send nothing.")
@click.option("--no-wait", is_flag=True, help="Do what can be done now and leave; exit 4 while batches are out.")
@click.option("--partial", is_flag=True, help="Write the results also where answers are missing (status pending).")
@click.option("--retry-failed", is_flag=True, help="Send the requests again that the provider refused.")
@click.option("--yes", is_flag=True, help="Do not ask before a paid submission.")
@output_options
def run(requests: tuple[Path, ...], out: Path, as_json: bool, **given: Any) -> int:  # noqa: ANN401 - click's own
    """Answer every request of prepared JSONL files, or of a table's rows, in the order of the input.

    Killed or interrupted, run the same command again: what was paid for is never paid for again. A request that
    changed is another one. Without --partial the results are written only when every request has its answer, or the
    provider's refusal: after exit 4 or 5 they are not there yet, and those of an earlier run stand as they were.

    \b
    Examples:
      embedfill batch run requests.jsonl --endpoint /v1/chat/completions --provider openai --out results.parquet
      embedfill batch run --from "tickets/*.parquet" --template prompt.toml --provider openai --out labels.parquet
    """
    config = load_job(given["config"], _flags(given))
    prompt, inputs, endpoint = _input(requests, given)
    out = out.absolute()
    check_output(out, [*inputs, *(given[name] for name in ("template", "config") if given[name])], RESULTS.names)
    job = open_job(config, given["store"] or default_store(out), endpoint, prompt)

    def confirm(expected: JobEstimate) -> bool:
        return given["yes"] or config.batch.budget_usd is not None or _ask(expected)

    options = JobOptions(
        wait=not given["no_wait"], partial=given["partial"], retry=given["retry_failed"], progress=Console(),
        confirm=confirm,
    )  # fmt: skip
    if given["dry_run"]:
        expected = estimate_job(job, inputs, options)
        show(asdict(expected), as_json, lambda: _expected(expected))
        return 0
    try:
        summary = run_job(job, inputs, out, options)
    except ProviderError as error:
        error.hint += "" if options.partial else "; --partial writes the results of what is answered"
        raise
    if summary.parked and given["budget_usd"] is not None:
        summary.parked.hint = summary.parked.hint.replace("batch.budget_usd", "--budget-usd")
    show(as_dict(summary, out), as_json, lambda: _lines(summary, out))
    return _exit_code(summary)


@command.command("diff")
@click.argument("a", type=_PATH)
@click.argument("b", type=_PATH)
@click.option("--out", type=_PATH, help="Write the rows whose answers changed to this Parquet file.")
@output_options
def diff(a: Path, b: Path, out: Path | None, as_json: bool) -> int:
    """Compare two results over the same rows: which answers changed, cost and tokens of each.

    \b
    Example:
      embedfill batch diff before.parquet after.parquet --out changed.parquet
    """
    found = compare(a, b, out)
    show(asdict(found), as_json, lambda: _difference(found, out))
    return 0


def _flags(given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        "provider": {key: given[key] for key in ("provider", "base_url")},
        "batch": {key: given[key] for key in ("budget_usd", "max_enqueued_tokens")},
        "": {key: given[key] for key in ("assume_output_tokens", "assume_media_tokens")},
    }


def _input(requests: tuple[Path, ...], given: Mapping[str, Any]) -> tuple[Prompt | None, list[Path], str]:
    """Template, files and endpoint."""
    tables, template, endpoint = given["tables"], given["template"], given["endpoint"]
    if bool(requests) == bool(tables) or bool(tables) != bool(template):
        raise UsageError("give either prepared requests, or --from with --template", "see: embedfill batch run --help")
    if template:
        prompt = load_prompt(template, endpoint)
        return prompt, find_tables(tables), prompt.endpoint
    if not endpoint:
        raise UsageError("--endpoint is missing", "for example: --endpoint /v1/chat/completions")
    return None, list(requests), endpoint


def as_dict(summary: JobSummary, out: Path) -> dict[str, object]:
    names = ("requests", "answered", "batches", "prompt_tokens", "completion_tokens", "cost_usd", "finished")
    totals = asdict(summary.totals) if summary.totals else None
    written = str(out) if totals else None
    stopped = summary.parked.as_dict() if summary.parked else {}
    return {name: getattr(summary, name) for name in names} | {"out": written, "totals": totals} | stopped


def _ask(expected: JobEstimate) -> bool:
    """Shows what would be sent and asks; without a terminal nobody can answer."""
    say("\n".join(_expected(expected)))
    if not sys.stdin.isatty():
        raise UsageError("this run would spend money and nobody can be asked", "pass --yes, or --budget-usd")
    click.echo("Submit this? [y/N] ", err=True, nl=False)  # stdout is for the result alone
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _expected(expected: JobEstimate) -> list[str]:
    output = "with no limit" if expected.output_tokens is None else f"at most {expected.output_tokens:,}"
    price = "unknown: state prices and limits"
    if expected.cost_usd is not None:
        price = f"{'at most' if expected.exact else 'about'} {money(expected.cost_usd)}"
    counted = ", ".join(f"{model} {how}" for model, how in expected.counted.items())
    if expected.uncounted:
        counted += f"; {plural(expected.uncounted, 'image, recording or file', '')} not counted: --assume-media-tokens"
    return [
        f"requests  {expected.requests:,} to send; {expected.answered:,} answered, {expected.failed:,} failed, "
        f"{expected.in_flight:,} in flight, {expected.rejected:,} rejected",
        f"tokens    {expected.prompt_tokens:,} of prompts ({counted}); generated: {output}",
        f"price     {price}",
    ]


def _exit_code(summary: JobSummary) -> int:
    if summary.parked is not None:
        say(f"stopped: {summary.parked.message}\n  {summary.parked.hint}")
        return _STOPPED
    if not summary.finished:
        return _PENDING
    statuses = summary.totals.statuses if summary.totals else {}
    return _REJECTIONS if statuses.get("failed") or statuses.get("rejected") else 0


def _lines(summary: JobSummary, out: Path) -> list[str]:
    lines = [
        f"answered  {summary.answered:,} of {summary.requests:,} now; {plural(summary.batches, 'batch', 'es')}, "
        f"{summary.prompt_tokens:,} prompt and {summary.completion_tokens:,} generated tokens, {_cost(summary.cost_usd)}"
    ]
    if not summary.finished and not summary.parked:
        lines.append("batches are out; run it again later to collect them")
    if summary.totals:
        counts = ", ".join(f"{count:,} {status}" for status, count in summary.totals.statuses.items() if count)
        lines.append(f"results   {out}: {counts or 'no rows'}")
        lines += _reasons(summary.totals.reasons)
    return lines


def _reasons(reasons: Mapping[str, Reason]) -> list[str]:
    """The most frequent reasons why rows have no answer."""
    often = sorted(reasons.items(), key=lambda item: -item[1].rows)
    lines = [f"  {why.rows:,} {code}: {why.message} (first: {why.first})" for code, why in often[:_SHOW_REASONS]]
    rest = len(often) - _SHOW_REASONS
    return [*lines, f"  and {plural(rest, 'other reason')}: see error_code"] if rest > 0 else lines


def _cost(usd: float | None) -> str:
    return money(usd, f"cost {PRICE_UNKNOWN}")


def _difference(found: Difference, out: Path | None) -> list[str]:
    lines = [
        f"answers   {found.same:,} same, {found.changed:,} changed; only in A {found.only_a:,}, only in B {found.only_b:,}"
    ]
    lines += [_side(name, side) for name, side in (("A", found.a), ("B", found.b))]
    return [*lines, f"changed   {out}"] if out else lines


def _side(name: str, side: Side) -> str:
    models = ", ".join(side.models) or "no model"
    templates = f", template {', '.join(side.templates)}" if side.templates else ""
    return (
        f"{name}         {side.path}: {models}{templates}; {side.prompt_tokens:,} prompt and "
        f"{side.completion_tokens:,} generated tokens, {_cost(side.cost_usd)}"
    )
