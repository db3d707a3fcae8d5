"""The open jobs of one worker: opened when their batch may run, brought to their ends when they are through.

A batch belongs to one worker, and a worker is one thread. Runs no request itself.
"""

import time
from collections.abc import Callable
from itertools import islice

from embedfill.batchapi.models import File
from embedfill.engine import room
from embedfill.engine.state import files
from embedfill.engine.state.batches import Active, Batches
from embedfill.engine.state.files import Files
from embedfill.engine.state.spool import Name, Spools
from embedfill.engine.telemetry import logs
from embedfill.engine.work.job import Job, never_run
from embedfill.engine.work.schedule import admitted

_OPEN_BATCHES = 64  # three open files each
_WRITTEN_OFF = 1_000  # lines of one append


class Jobs:
    """`mine` says which validated batches this worker runs."""

    def __init__(self, batches: Batches, files: Files, spools: Spools, mine: Callable[[Active], bool]) -> None:
        self._batches = batches
        self._files = files
        self._spools = spools
        self._mine = mine
        self._open: dict[str, Job] = {}
        self.active = False  # whether any batch of ours had not ended when `running` last looked

    def running(self) -> list[Job]:
        """Ends what is to be ended; the jobs that have lines left to run, nearest deadline first: some of every owner
        and model, but not more than may be open at once. Raises as `catch_up` does."""
        self.catch_up()
        active = [batch for batch in self._batches.active() if batch.model is not None and self._mine(batch)]
        self.active = bool(active)
        left = [batch for batch in active if not self._settled(batch)]
        chosen = admitted(left, _OPEN_BATCHES, lambda batch: batch.id in self._open)
        self._park({batch.id for batch in left} - {batch.id for batch in chosen})
        return [self._job(batch) for batch in chosen]

    def catch_up(self) -> None:
        """Writes what there was no room for; raises where there still is none. No line is to be taken then."""
        for job in self._open.values():
            job.catch_up()

    def close(self) -> None:
        for job in self._open.values():
            try:
                job.settle()
            except room.FAILURES as error:
                if room.cause(error) is None:
                    raise
                logs.warning("results without room are made again", batch=job.batch.id)
            job.close()
        self._open.clear()

    def _park(self, batch_ids: set[str]) -> None:
        """Closes the jobs of these, which others have pushed out. What they have finished is on disk."""
        for batch_id in batch_ids & self._open.keys():
            if not self._open[batch_id].outstanding:
                self._open[batch_id].settle()
                self._open.pop(batch_id).close()

    def _job(self, batch: Active) -> Job:
        if batch.id not in self._open:
            self._open[batch.id] = Job(batch, self._spools)
        return self._open[batch.id]

    def _settled(self, batch: Active) -> bool:
        """Brings a batch to its end where it is due; False where it still has to run."""
        job = self._open.get(batch.id)
        through = job is not None and job.exhausted
        expired = time.time() >= batch.expires_at
        if job is not None and job.outstanding:  # what is in flight finishes first
            return through or expired or batch.status == "cancelling"
        if batch.status == "cancelling":
            self._write_off(batch, "batch_cancelled", "This request was not run: the batch was cancelled.")
            self._end(batch, "cancelling", "cancelled")
        elif batch.status == "finalizing" or through:
            self._job(batch).settle()
            if self._batches.finalize(batch.id):
                self._end(batch, "finalizing", "completed")
        elif expired:
            self._write_off(batch, "batch_expired", "This request could not be run before the batch expired.")
            self._end(batch, "in_progress", "expired")
        else:
            return False
        return True

    def _write_off(self, batch: Active, code: str, message: str) -> None:
        """Gives every request that is left a line that says why it was not run."""
        job = self._job(batch)
        while items := list(islice(iter(job.take, None), _WRITTEN_OFF)):
            job.put([never_run(item, code, message) for item in items])

    def _end(self, batch: Active, before: str, after: str) -> None:
        """Turns the spool into files and ends the batch. Where its status changed meanwhile, the next look sees to it."""
        job = self._job(batch)
        job.settle()
        output, error = self._link(job, "output"), self._link(job, "error")
        if self._batches.end(batch.id, before, after, output, error):
            job.close()
            del self._open[batch.id]
            self._spools.remove(batch.id)
        else:
            for file in (output, error):
                if file is not None:
                    self._files.path(file.id).unlink()
            job.files.clear()

    def _link(self, job: Job, name: Name) -> File | None:
        """A file of what was spooled, still without a row; None where nothing was. The same again where the batch could
        not be ended for want of room."""
        size = job.spool.size(name)
        if not size:
            return None
        if name not in job.files:
            called = f"{job.batch.id}_{name}.jsonl"
            job.files[name] = files.new_file(size, called, "batch_output", job.batch.output_seconds)
        self._files.link(job.spool.path(name), job.files[name])
        return job.files[name]
