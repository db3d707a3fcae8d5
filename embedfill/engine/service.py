"""The engine without HTTP: its parts, put together, and the threads that work on them."""

from pathlib import Path

from embedfill.batchapi.models import BatchError
from embedfill.batchapi.windows import window_s
from embedfill.engine import rehearsal
from embedfill.engine.batches import Active, Batches
from embedfill.engine.database import Database
from embedfill.engine.files import Files
from embedfill.engine.jobs import Jobs
from embedfill.engine.loop import Loop
from embedfill.engine.owners import Owners
from embedfill.engine.pool import Pool
from embedfill.engine.refusal import refused
from embedfill.engine.served import Served
from embedfill.engine.settings import EngineSettings
from embedfill.engine.spool import Spools
from embedfill.engine.uploads import Uploads
from embedfill.engine.validate import Verdict, validate
from embedfill.engine.worker import Worker
from embedfill.errors import RefusedError

_STOP_S = 5.0
_SWEEP_S = 60.0


class Engine:
    """Owns the data directory. `start` goes on with what a crash interrupted."""

    def __init__(self, settings: EngineSettings) -> None:
        root = settings.data
        self.data = root
        self.settings = settings
        self.owners = Owners(settings.digests())
        self.windows = {window: window_s(window) or 0 for window in settings.windows}
        self.database = Database(root / "engine.db")
        self.files = Files(root, self.database)
        self.uploads = Uploads(root, self.database, self.files)
        self.batches = Batches(self.database)
        self.pool = Pool(settings.threads)
        for name in settings.rehearse:
            self.pool.add(name, rehearsal.maker(name))
        self.served = Served(self.pool.names, settings.routes)
        self._spools = Spools(root, self.database)
        jobs = Jobs(self.batches, self.files, self._spools, lambda batch: not self._route(batch))
        self._worker = Worker(jobs, self.pool)
        self._working = Loop("worker", self._worker.step, 1.0)
        self._validating = Loop("validator", self._validate, 1.0)
        self._sweeping = Loop("sweeper", self._sweep, _SWEEP_S)

    def start(self) -> None:
        self.files.recover()
        self.uploads.recover()
        self._spools.recover({batch.id for batch in self.batches.active()})
        for loop in (self._validating, self._working, self._sweeping):
            loop.start()

    def wake(self) -> None:
        """There may be something to do: a new batch, a cancelled one."""
        self._validating.wake()
        self._working.wake()

    def stop(self) -> bool:
        """Ends the work in hand and closes the database. False where a step took too long: the process must end then,
        which is as safe as a crash."""
        loops = (self._validating, self._sweeping, self._working)
        ended = all([loop.stop(_STOP_S) for loop in loops])  # noqa: C419 - each is to be stopped
        if ended:
            self._worker.close()
            self.database.close()
        return ended

    def _validate(self) -> bool:
        """Validates the oldest batch that was not validated yet."""
        waiting = [batch for batch in self.batches.active() if batch.model is None]
        if not waiting:
            return False
        batch = waiting[0]
        verdict = self._verdict(batch)
        if verdict is None:
            return False
        if verdict.errors or verdict.model is None:
            self.batches.refuse(batch.id, verdict.errors, verdict.model)
            self._spools.remove(batch.id)
        else:
            self.batches.accept(batch.id, verdict.model, verdict.total)
            self._working.wake()
        return True

    def _verdict(self, batch: Active) -> Verdict | None:
        try:
            held = self._spools.input(batch.id)
            if not held.exists():
                held = self._hold(batch)
        except (RefusedError, FileNotFoundError) as error:
            message = f"The input file '{batch.input_file_id}' cannot be used: {error}"
            return Verdict(errors=[BatchError(code="invalid_request", message=message, param="input_file_id")])
        return validate(held, batch.endpoint, self.served, self._validating.stopping.is_set)

    def _hold(self, batch: Active) -> Path:
        """Keeps the input for the batch, whatever becomes of the file. Raises RefusedError, FileNotFoundError."""
        file = self.files.get(
            batch.input_file_id, batch.owner
        )  # the id is the client's word: only a row makes it a path
        if file.purpose != "batch":
            raise refused(f"Its purpose is '{file.purpose}', not 'batch'.", "input_file_id")
        return self._spools.hold(batch.id, self.files.path(file.id))

    def _route(self, batch: Active) -> str | None:
        return self.served.route(batch.model or "", batch.endpoint)

    def _sweep(self) -> bool:
        self.files.sweep()
        self.uploads.sweep()
        return False
