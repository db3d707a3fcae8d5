"""What the drivers said, as a table and as JSON. Judges nothing but the counts."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

HEAD = ("client", "version", "ok", "failed", "skipped", "seconds")


@dataclass
class Outcome:
    """The checks of one client, in order; each has check, outcome, detail and seconds."""

    client: str
    version: str = ""
    checks: list[dict[str, Any]] = field(default_factory=list)

    def of(self, outcome: str) -> list[dict[str, Any]]:
        return [check for check in self.checks if check["outcome"] == outcome]

    @property
    def row(self) -> tuple[str, ...]:
        counts = [str(len(self.of(outcome))) for outcome in ("ok", "failed", "skipped")]
        return (self.client, self.version, *counts, f"{sum(check['seconds'] for check in self.checks):.1f}")


def failed(outcomes: Sequence[Outcome]) -> int:
    return sum(len(outcome.of("failed")) for outcome in outcomes)


def as_json(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    return {"failed": failed(outcomes), "clients": [asdict(outcome) for outcome in outcomes]}


def as_text(outcomes: Sequence[Outcome], checks: bool) -> str:
    """The table; below it what failed and what was skipped, or every check; last the sum."""
    rows = [HEAD, *(outcome.row for outcome in outcomes)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    for outcome in outcomes:
        shown = outcome.checks if checks else outcome.of("failed") + outcome.of("skipped")
        lines += ["", outcome.client] if shown else []
        lines += [f"  {one['outcome']:8}{one['check']}{': ' * bool(one['detail'])}{one['detail']}" for one in shown]
    counts = {name: sum(len(outcome.of(name)) for outcome in outcomes) for name in ("ok", "failed", "skipped")}
    return "\n".join([*lines, "", f"{counts['ok']} passed, {counts['failed']} failed, {counts['skipped']} skipped"])
