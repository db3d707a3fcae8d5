"""How long a run may take: waves under the limit, the median of what was, and the window at worst."""

from typing import Any

import pytest

from embedfill.batchapi.windows import window_s
from embedfill.duration import Duration, duration
from embedfill.records import Outcome
from embedfill.tracker.quota import Quota

FREE, TEN = Quota(None, None), Quota(10, None)


def past(*seconds: float | None, tokens: int = 1000, **values: Any) -> list[Outcome]:
    made: dict[str, Any] = {"status": "completed", "texts": 9, "vectors": 9, "refused": 0, "cost_usd": 0.0, "packs": ()}
    return [
        Outcome(shard=f"s{number}", attempt=1, batch_id="b", prompt_tokens=tokens, seconds=took, **{**made, **values})
        for number, took in enumerate(seconds)
    ]


@pytest.mark.parametrize(
    ("tokens", "requests", "quota", "waves"),
    [
        (0, 0, FREE, 0), (0, 0, TEN, 0), (1, 1, FREE, 1), (10**9, 10**6, FREE, 1), (1, 1, TEN, 1), (10, 1, TEN, 1),
        (11, 1, TEN, 2), (95, 9, TEN, 10), (95, 9, Quota(None, None, 2), 5), (95, 9, Quota(10, None, 2), 10),
        (15, 9, Quota(10, None, 2), 5),
    ],
)  # fmt: skip
def test_waves_are_how_often_a_limit_is_filled(tokens: int, requests: int, quota: Quota, waves: int) -> None:
    found = duration(tokens, requests, 99, quota, "24h", past(60.0))
    assert (found.waves, found.typical_s, found.worst_s) == (waves, waves * 60.0, waves * 86_400.0)
    assert (found.max_enqueued_tokens, found.max_enqueued_requests) == (
        quota.max_enqueued_tokens, quota.max_enqueued_requests,
    )  # fmt: skip


def test_a_batch_that_is_alone_goes_out_whatever_the_limit() -> None:
    assert duration(120, 30, 30, Quota(1, None), "24h", []).waves == 30


def test_the_median_is_of_batches_that_brought_something_and_say_how_long() -> None:
    known = [*past(10.0, 30.0, 9000.0), *past(None), *past(1.0, vectors=0, status="failed")]
    assert duration(25, 1, 9, TEN, "24h", known) == Duration(3, 10, None, 90.0, 3 * 86_400.0, 3)
    assert duration(25, 1, 9, TEN, "24h", past(1.0, vectors=0)) == Duration(3, 10, None, None, 3 * 86_400.0, 0)


def test_this_machine_is_as_fast_as_it_was_for_a_batch_that_did_not_wait() -> None:
    assert duration(10_000, 9, 9, FREE, None, past(10.0, 20.0, 30.0)) == Duration(1, None, None, 100.0, None, 3)
    assert duration(10_000, 9, 9, FREE, None, past(1.0, 0.0)) == Duration(1, None, None, None, None, 0)  # no telling
    assert duration(0, 0, 0, FREE, None, past(10.0)) == Duration(0, None, None, 0.0, None, 1)


@pytest.mark.parametrize(
    ("window", "seconds"), [("24h", 86_400.0), ("1h", 3600.0), ("14d", 14 * 86_400.0), ("90m", 5400.0), ("soon", None)]
)
def test_windows(window: str, seconds: float | None) -> None:
    assert window_s(window) == seconds
    assert duration(5, 1, 1, FREE, window, []).worst_s == seconds
