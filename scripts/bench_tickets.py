#!/usr/bin/env python3
"""200,000 short support tickets labelled by a chat model, the run killed twice (SIGKILL) on the way.

The chat model is the tests' own provider on 127.0.0.1, which answers by a rule and keeps books of what it billed. Checks
that each ticket was billed once, that all rows are there in order with the right label, and prints time and peak memory
of the runs. Run it with the project's interpreter:

    .venv/bin/python scripts/bench_tickets.py
    .venv/bin/python scripts/bench_tickets.py --tickets 20000 --json
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.chat_fixtures import Job, chat_provider, content, label_of, run_killed


def check(job: Job, count: int) -> None:
    """Each ticket once, in order, with its label, billed once."""
    number = 0
    with pq.ParquetFile(job.out) as file:
        for batch in file.iter_batches(10_000, columns=["custom_id", "status", "body"]):
            for name, status, body in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                assert (name, status, content(body)) == (f"t{number}", "ok", label_of(number)), name
                number += 1
    runs = job.provider.books.runs
    assert number == count == runs.total() == len(runs), (number, runs.total(), len(runs))


def bench(count: int, folder: Path) -> dict[str, Any]:
    with chat_provider() as provider:
        batches = 20
        job = Job(folder, provider, inputs=-(-count // batches)).write_tickets(range(count), parts=4)
        killed = run_killed(job, kill_at=(batches // 5, 3 * batches // 5))
        check(job, count)
        assert provider.books.batches == batches, provider.books.batches
    return {
        "tickets": count,
        "batches": batches,
        "killed": killed.codes.count(-9),
        "seconds": round(killed.seconds, 1),
        "peak_mb": round(killed.peak_bytes / 1e6),
        "results_mb": round(job.out.stat().st_size / 1e6, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tickets", type=int, default=200_000)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = bench(arguments.tickets, Path(folder))
    print(json.dumps(result) if arguments.json else "\n".join(f"{name:12} {value}" for name, value in result.items()))


if __name__ == "__main__":
    main()
