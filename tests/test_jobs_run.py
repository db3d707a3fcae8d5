"""Jobs of any endpoint against a provider: every request answered once, whatever happens on the way."""

from typing import Any

import orjson
import pytest

from tests.chat_fixtures import CHAT, Job, chat_line, label_of, subject
from tests.cli_fixtures import Cli
from tests.fate_fixtures import Fate


def lines(count: int) -> list[dict[str, Any]]:
    return [chat_line(f"r{number}", subject(number)) for number in range(count)]


def test_answers_stand_in_the_order_of_the_input(job: Job, cli: Cli) -> None:
    job.inputs = 7
    ran = cli(*job.write_lines(lines(30)).command("--json"))
    assert ran.code == 0, ran.err
    assert job.said() == {f"r{number}": label_of(number) for number in range(30)}
    assert ran.json["totals"]["statuses"]["ok"] == ran.json["answered"] == 30
    assert job.provider.books.batches == ran.json["batches"] == 5
