"""Cancels what a job has in flight and keeps what was answered. Submits nothing: a later run sends what is missing."""

from embedfill.jobs.open import OpenJob
from embedfill.jobs.settle import JobSettler
from embedfill.tracker.cancellation import Cancellation, Cancelled, Options


def cancel_job(job: OpenJob, options: Options | None = None) -> Cancelled:
    """Ends what is out of the job, by whichever run. Raises UsageError where the answer is no."""
    options = options or Options()
    state = job.state().refresh()
    if not state.open():
        return Cancelled()
    settle = JobSettler(job.store, job.cache, job.space, job.pricing, options.at)
    with job.cache.in_use(), job.client() as client:
        return Cancellation(job.account(client, options.at, options.clock), state, settle, options).run()
