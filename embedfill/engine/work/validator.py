"""Takes new batches to their start or their failure: holds the input, has it checked, and records the verdict.

Owners take turns, so that one who sends many large files keeps nobody else waiting for more than one of them. A batch
whose window passes meanwhile is validated all the same: how many requests it has must be known to account for each.
"""

from collections.abc import Callable
from pathlib import Path

from embedfill.batchapi.models import BatchError
from embedfill.engine.refusal import refused
from embedfill.engine.state.allowance import Allowance
from embedfill.engine.state.batches import Active, Batches
from embedfill.engine.state.files import Files
from embedfill.engine.state.spool import Spools
from embedfill.engine.telemetry import logs
from embedfill.engine.work.served import Served
from embedfill.engine.work.validate import Verdict, validate
from embedfill.errors import RefusedError

_TRIES = 3  # to read a file


class Validator:
    """`step` validates one batch, and is called by one thread only; `stopped` may end it early. `accepted` is called
    when there is a batch to run."""

    def __init__(
        self,
        batches: Batches,
        files: Files,
        spools: Spools,
        served: Served,
        allowance: Allowance,
        stopped: Callable[[], bool],
        accepted: Callable[[], None],
    ) -> None:
        self._batches = batches
        self._files = files
        self._spools = spools
        self._served = served
        self._allowance = allowance
        self._stopped = stopped
        self._accepted = accepted
        self._turns: dict[str, int] = {}  # when an owner had its last one
        self._turn = 0
        self._unread: dict[str, int] = {}  # how often a batch's input could not be read

    def step(self) -> bool:
        """Validates a batch of the owner whose last turn is longest ago. False where there is none."""
        waiting = self._batches.unvalidated()
        if not waiting:
            return False
        batch = min(waiting, key=lambda one: (self._turns.get(one.owner, 0), one.seq))
        verdict = self._verdict(batch)
        self._turn += 1
        self._turns[batch.owner] = self._turn
        if verdict is None:
            return False
        self._record(batch, verdict)
        return True

    def _record(self, batch: Active, verdict: Verdict) -> None:
        accepted = False
        if verdict.errors or verdict.model is None:
            self._batches.refuse(batch.id, verdict.errors, verdict.model)
        else:
            accepted = self._batches.accept(batch.id, verdict.model, verdict.total, verdict.tokens)
        if accepted:
            self._accepted()
        else:
            self._spools.remove(batch.id)
        logs.info("batch_validated", batch=batch.id, requests=verdict.total, errors=len(verdict.errors), runs=accepted)

    def _verdict(self, batch: Active) -> Verdict | None:
        try:
            held = self._spools.input(batch.id)
            if not held.exists():
                held = self._hold(batch)
        except RefusedError as error:
            return _unusable(batch, str(error))
        except FileNotFoundError:  # deleted meanwhile; the error itself tells paths
            return _unusable(batch, f"No such File object: {batch.input_file_id}")
        try:
            return validate(held, batch.endpoint, self._served, self._stopped, self._allowance)
        except OSError as error:  # of a read: nothing is written here
            return self._unreadable(batch, error)

    def _unreadable(self, batch: Active, error: OSError) -> Verdict | None:
        """None where it may be tried once more."""
        tries = self._unread.pop(batch.id, 0) + 1
        logs.warning("input_unreadable", batch=batch.id, error=str(error), tries=tries)
        if tries >= _TRIES:
            return _unusable(batch, "It cannot be read.")
        self._unread[batch.id] = tries
        return None

    def _hold(self, batch: Active) -> Path:
        """Keeps the input for the batch, whatever becomes of the file. Raises RefusedError, FileNotFoundError."""
        # The id is the client's word: only a row makes it a path.
        file = self._files.get(batch.input_file_id, batch.owner)
        if file.purpose != "batch":
            raise refused(f"Its purpose is '{file.purpose}', not 'batch'.", "input_file_id")
        return self._spools.hold(batch.id, self._files.path(file.id))


def _unusable(batch: Active, why: str) -> Verdict:
    message = f"The input file '{batch.input_file_id}' cannot be used: {why}"
    return Verdict(errors=[BatchError(code="invalid_request", message=message, param="input_file_id")])
