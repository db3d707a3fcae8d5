"""`embedfill batch status` and `embedfill batch cancel`: a job as its store knows it, without its input."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click

from embedfill.batchapi.models import ENDPOINTS
from embedfill.cli.cancel import ask, lines_of
from embedfill.cli.common import output_options, show
from embedfill.cli.flight import flight_lines
from embedfill.cli.progress import Console
from embedfill.errors import UsageError
from embedfill.jobs.cancel import cancel_job
from embedfill.jobs.config import load_job
from embedfill.jobs.held import open_held
from embedfill.jobs.open import OpenJob, default_store
from embedfill.jobs.status import JobStanding, job_standing
from embedfill.tracker.cancellation import Cancelled, Options

PRICE_UNKNOWN = "unknown: state [prices]"
_PENDING = 4
_PATH = click.Path(path_type=Path)
Command = TypeVar("Command", bound=Callable[..., Any])


def job_options(function: Command) -> Command:
    """What tells a job from others: its results or store, and where one store holds several, endpoint and provider."""
    for option in (
        click.option("--base-url", help="The provider's address, if not as it was run."),
        click.option("--provider", help="Who runs its batches, if not as it was run."),
        click.option("--config", type=_PATH, help="The TOML file that it is run with: budget, limits, prices."),
        click.option("--endpoint", type=click.Choice(ENDPOINTS), help="Where the store holds several jobs: which."),
        click.option("--store", help="Where its state lives: a directory or s3://…  [default: OUT.store]"),
        click.option("--out", type=_PATH, help="Its results, whether they are there yet or not."),
    ):
        function = option(function)
    return function


@click.command("status")
@job_options
@click.option("--budget-usd", type=float, help="Say what is left of it.")
@output_options
def status(as_json: bool, **given: Any) -> int:  # noqa: ANN401 - click's own
    """Tell how many requests are answered, which batches are out, and what was spent. Asks no provider.

    Requests that no run has planned yet are not counted: their number stands in the input alone.

    \b
    Examples:
      embedfill batch status --out results.parquet
      embedfill batch status --store s3://bucket/jobs --endpoint /v1/responses --budget-usd 20 --json
    """
    stands = job_standing(_job(**given))
    show(asdict(stands), as_json, lambda: _lines(stands))
    return 0


@click.command("cancel")
@job_options
@click.option("--no-wait", is_flag=True, help="Ask for it and leave; exit 4 while batches have not ended.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@output_options
def cancel(no_wait: bool, yes: bool, as_json: bool, **given: Any) -> int:  # noqa: ANN401
    """Cancel a job's batches that are out and keep what was answered.

    What a provider has answered is billed, so it is kept. Nothing new is submitted; the next `batch run` sends what is
    missing. Stop a run that is at work first: it would go on submitting.

    \b
    Examples:
      embedfill batch cancel --out results.parquet
      embedfill batch cancel --out results.parquet --yes --no-wait
    """

    def confirm(out: Cancelled) -> bool:
        return yes or ask(out, "request")

    done = cancel_job(_job(**given), Options(wait=not no_wait, progress=Console(), confirm=confirm))
    show(as_dict(done), as_json, lambda: lines_of(done, "request", "answer", "embedfill batch run", PRICE_UNKNOWN))
    return 0 if done.finished else _PENDING


def as_dict(done: Cancelled) -> dict[str, object]:
    """By the names that `batch run` and `batch status` have for them."""
    names = {"texts": "requests", "vectors": "answered", "refused": "failed"}
    return {names.get(name, name): value for name, value in asdict(done).items()}


def _job(
    out: Path | None,
    store: str | None,
    endpoint: str | None,
    config: Path | None,
    provider: str | None,
    base_url: str | None,
    budget_usd: float | None = None,
) -> OpenJob:
    if store is None and out is None:
        raise UsageError("give --out or --store", "for example: --out results.parquet")
    flags: dict[str, dict[str, Any]] = {
        "provider": {"provider": provider, "base_url": base_url},
        "batch": {"budget_usd": budget_usd},
    }
    return open_held(load_job(config, flags), store or default_store(out or Path()), endpoint)


def _lines(stands: JobStanding) -> list[str]:
    return [
        f"store     {stands.store}",
        f"job       {stands.endpoint} at {stands.origin}",
        f"requests  {stands.answered:,} answered, {stands.failed:,} failed, {stands.in_flight:,} in flight, "
        f"{stands.pending:,} to be sent",
        *flight_lines(stands, "request", PRICE_UNKNOWN),
    ]
