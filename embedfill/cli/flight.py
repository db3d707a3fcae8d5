"""What is out and what was spent, in lines for a reader: of a project's store and of a job's."""

from collections.abc import Iterator

from embedfill.cli.common import SPENT_UNKNOWN, money, plural, span
from embedfill.flight import Flight

_SHOWN = 20


def flight_lines(flight: Flight, noun: str, unknown: str = SPENT_UNKNOWN) -> list[str]:
    """`noun` is what a batch holds; `unknown` is said where a price is."""
    generated = f" and {flight.completion_tokens:,} generated" if flight.completion_tokens else ""
    batches = plural(flight.batches, "batch", "es")
    spent = f"{flight.prompt_tokens:,}{generated} tokens in {batches}, {money(flight.cost_usd, unknown)}"
    return [f"spent     {spent}", *_money_left(flight, unknown), *_out(flight, noun), *_elsewhere(flight)]


def _money_left(flight: Flight, unknown: str) -> list[str]:
    if not flight.batches_out and flight.budget_usd is None:
        return []
    left = (
        f"; {money(flight.left_usd, unknown)} of {money(flight.budget_usd)} left"
        if flight.budget_usd is not None
        else ""
    )
    limit = f" of {flight.max_enqueued_tokens:,}" if flight.max_enqueued_tokens is not None else ""
    batches = plural(len(flight.batches_out), "batch", "es")
    return [
        f"in flight {batches}, {flight.enqueued_tokens:,}{limit} tokens, {money(flight.in_flight_usd, unknown)}{left}"
    ]


def _elsewhere(flight: Flight) -> Iterator[str]:
    if flight.elsewhere_usd:
        yield f"elsewhere {money(flight.elsewhere_usd)} spent or in flight by other configurations of this store"
    if flight.elsewhere_batches_out:
        batches = plural(flight.elsewhere_batches_out, "batch", "es")
        yield f"elsewhere {batches} out of other configurations of this store: run with theirs to collect them"


def _out(flight: Flight, noun: str) -> Iterator[str]:
    """The oldest batches: those that may need a look."""
    for one in flight.batches_out[:_SHOWN]:
        age = f"{span(one.age_s)} of {flight.window}" if one.age_s is not None else "age not known"
        near = "; near its window: what it does not finish goes out again" if one.near_window else ""
        name = one.id or f"(no batch known yet; shard {one.shard})"
        yield f"out       {name}  {plural(one.texts, noun)}, {one.tokens:,} tokens, {age}{near}"
    if len(flight.batches_out) > _SHOWN:
        yield f"out       and {len(flight.batches_out) - _SHOWN:,} more: --json lists all"
