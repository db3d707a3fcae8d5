"""A cancelled job keeps what was answered, and a later run sends the rest."""

from embedfill.jobs.cancel import cancel_job
from embedfill.jobs.config import load_job
from embedfill.jobs.held import open_held
from embedfill.tracker.cancellation import Cancelled, Options
from tests.chat_fixtures import Job
from tests.fate_fixtures import Fate
from tests.test_jobs_run import lines, run

LONG = 1e6  # seconds that a batch would take


def cancel(job: Job, **options: bool) -> Cancelled:
    quick = {"batch": {"poll_s": 0.005, "listing_delay_s": 0.05}}
    return cancel_job(open_held(load_job(None, quick), str(job.folder / "store")), Options(**options))


def test_what_was_answered_is_kept_and_a_later_run_sends_what_is_missing(job: Job) -> None:
    job.inputs = 5
    job.provider.fates = [Fate(takes_s=LONG, share=share) for share in (0.0, 0.6, 1.0)]
    assert not run(job.write_lines(lines(15)), wait=False).finished
    done = cancel(job)
    assert (done.batches, done.texts, done.ended, done.vectors, done.finished) == (3, 15, 3, 8, True)
    assert {batch["status"] for batch in job.provider.batches.values()} == {"cancelled"}
    assert done.prompt_tokens == job.provider.books.tokens
    run(job)
    assert len(job.said()) == 15 and set(job.provider.books.runs.values()) == {1}


def test_where_nothing_is_out_nobody_is_asked(job: Job) -> None:
    run(job.write_lines(lines(2)))
    asked = len(job.provider.requests)
    assert cancel(job) == Cancelled() and len(job.provider.requests) == asked
