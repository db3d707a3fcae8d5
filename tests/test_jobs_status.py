"""Where a job stands: what is told adds up at every step of it, and nobody is asked."""

from contextlib import suppress
from typing import Any

import pytest

from embedfill.jobs.config import load_job
from embedfill.jobs.held import open_held
from embedfill.jobs.status import JobStanding, job_standing
from tests.chat_fixtures import Job, chat_line, subject
from tests.fate_fixtures import Fate
from tests.provider_fixtures import Provider
from tests.test_jobs_run import KilledError, dying, lines, run

PRICES = {"tiny-chat": {"input": 1.0, "output": 10.0}}


def stands(job: Job, **batch: Any) -> JobStanding:
    return job_standing(open_held(load_job(None, {"batch": batch}), str(job.folder / "store")))


def counts(job: Job) -> tuple[int, int, int, int]:
    """Answered, failed, in flight, pending."""
    found = stands(job)
    return found.answered, found.failed, found.in_flight, found.pending


def test_a_job_from_its_first_plan_to_its_end(job: Job, provider: Provider) -> None:
    job.inputs, provider.hold = 4, True
    job.write_lines([*lines(10), chat_line("no", "forbidden")])
    with suppress(KilledError):
        run(job, prices=PRICES, at=dying("after-plan"))
    assert counts(job) == (0, 0, 0, 11)
    with suppress(KilledError):
        run(job, prices=PRICES, wait=False, at=dying("after-claim", times=2))
    assert counts(job) == (0, 0, 8, 3)  # one submitted, one in doubt
    run(job, prices=PRICES, wait=False)
    assert counts(job) == (0, 0, 11, 0)
    asked = len(provider.requests)
    found = stands(job, budget_usd=1.0)
    assert (found.batches, found.enqueued_requests, len(found.batches_out)) == (0, 11, 3)
    assert found.in_flight_usd == pytest.approx((found.enqueued_tokens + 11 * 40) / 1e6)  # as it was submitted
    assert found.left_usd == pytest.approx(1.0 - (found.in_flight_usd or 0))
    assert len(provider.requests) == asked, "the provider was asked"
    provider.finish()
    provider.hold = False
    run(job, prices=PRICES)
    found = stands(job)
    assert counts(job) == (10, 1, 0, 0) and found.batches_out == []
    assert (found.cost_usd, found.prompt_tokens) == (
        pytest.approx((found.prompt_tokens + 100) / 1e6),
        provider.books.tokens,
    )


def test_what_ended_without_an_answer_is_to_be_sent_again(job: Job, provider: Provider) -> None:
    provider.fates = [Fate("expired", share=0.5)]
    with suppress(KilledError):
        run(job.write_lines(lines(10)), at=dying("before-plan", times=2))
    assert counts(job) == (5, 0, 0, 5)
    with suppress(KilledError):
        run(job, at=dying("after-plan"))
    assert counts(job) == (5, 0, 0, 5)
    run(job)
    assert counts(job) == (10, 0, 0, 0)


def test_what_was_refused_and_is_forgiven_is_to_be_sent(job: Job) -> None:
    run(job.write_lines([*lines(3), chat_line("no", "forbidden")]))
    with suppress(KilledError):
        run(job, retry=True, at=dying("before-plan"))
    assert counts(job) == (3, 0, 0, 1)


def test_what_nobody_asks_for_any_more_is_not_pending(job: Job) -> None:
    with suppress(KilledError):
        run(job.write_lines(lines(4)), at=dying("after-plan"))
    run(job.write_lines([chat_line("r0", subject(3))]))
    assert counts(job) == (1, 0, 0, 0)
