"""The engine without HTTP: its parts, put together, and the threads that work on them."""

import time
from collections.abc import Callable
from functools import partial

from embedfill.batchapi.windows import window_s
from embedfill.engine.gauges import Gauges
from embedfill.engine.health import Health
from embedfill.engine.loop import Loop
from embedfill.engine.owners import Owners
from embedfill.engine.relay.forward import Forwarder
from embedfill.engine.relay.upstream import Route
from embedfill.engine.settings import EngineSettings
from embedfill.engine.state.allowance import allowance_of
from embedfill.engine.state.batches import Active, Batches
from embedfill.engine.state.database import Database
from embedfill.engine.state.files import Files
from embedfill.engine.state.spool import Spools
from embedfill.engine.state.uploads import Uploads
from embedfill.engine.telemetry.metrics import Metrics
from embedfill.engine.work import rehearsal
from embedfill.engine.work.jobs import Jobs
from embedfill.engine.work.local_models import makers
from embedfill.engine.work.pool import Pool
from embedfill.engine.work.served import Served
from embedfill.engine.work.sweep import Sweep
from embedfill.engine.work.validator import Validator
from embedfill.engine.work.webhooks import Notifier, hooks_of, record
from embedfill.engine.work.worker import Worker

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
        self.metrics = Metrics()
        self.database = Database(root / "engine.db", self.metrics)
        self.files = Files(root, self.database)
        self.uploads = Uploads(root, self.database, self.files)
        allowance, hooks = allowance_of(settings.limits), hooks_of(settings.webhooks)
        self.batches = Batches(self.database, allowance, partial(record, hooks), self.metrics)
        self.pool = Pool(settings.threads, allowance.limits.request_tokens, self.metrics)
        for name, make in makers(settings):
            self.pool.add(name, make)
        for name in settings.rehearse:
            self.pool.add(name, rehearsal.maker(name))
        self.served = Served(self.pool.names, settings.routes)
        self._spools = Spools(root, self.database, self.metrics)
        self.routes = {pattern: Route(pattern, route, self.metrics) for pattern, route in settings.routes.items()}
        self._worker = Worker(self._jobs(self._is_local), self.pool)
        others = self._jobs(lambda batch: not self._is_local(batch))  # of no route any more too: one may come back
        self._forwarder = Forwarder(others, self.batches, self.routes, self._route)
        self._working = Loop("worker", self._worker.step, 1.0, root)
        self._forwarding = Loop("forwarder", self._forwarder.step, 1.0, root)
        self._validator = Validator(
            self.batches,
            self.files,
            self._spools,
            self.served,
            allowance,
            lambda: self._validating.stopping.is_set(),
            self._run,
        )
        self._validating = Loop("validator", self._validator.step, 1.0, root)
        self._sweeping = Loop("sweeper", Sweep(self.database, self._expire).step, _SWEEP_S, root)
        self._notifiers = [Notifier(self.database, hook, self.metrics) for hook in hooks]
        notifying = [Loop(f"webhook-{place}", one.step, 1.0, root) for place, one in enumerate(self._notifiers)]
        self._loops = (self._validating, self._sweeping, self._working, self._forwarding, *notifying)
        self.health = Health(root, self.database, self._loops)
        Gauges(root, self.database, self.routes).register(self.metrics)

    def start(self) -> None:
        self.files.recover()
        self.uploads.recover()
        self._spools.recover({batch.id for batch in self.batches.active()})
        for loop in self._loops:
            loop.start()

    def wake(self) -> None:
        """There may be something to do: a new batch, a cancelled one."""
        self._validating.wake()
        self._run()

    def _run(self) -> None:
        self._working.wake()
        self._forwarder.wake()

    def quiesce(self) -> None:
        """No new work from here on; what is in hand goes on."""
        self.health.stopping.set()
        for loop in self._loops:
            loop.quiesce()
        self._forwarder.wake()

    def drain(self, within_s: float) -> bool:
        """Lets the work in hand end. False where a step took longer: the process must end then, which is as safe as a
        crash."""
        due = time.monotonic() + within_s
        ended = all([loop.stop(max(0.0, due - time.monotonic())) for loop in self._loops])  # noqa: C419 - each of them
        if ended:
            self._worker.close()
            self._forwarder.close(max(0.0, due - time.monotonic()))
            for notifier in self._notifiers:
                notifier.close()
        return ended

    def close(self) -> None:
        """Once everything is drained, and nobody asks any more."""
        self.database.close()

    def stop(self, within_s: float = _STOP_S) -> bool:
        """`quiesce`, `drain` and `close`, where nobody else asks."""
        self.quiesce()
        ended = self.drain(within_s)
        if ended:
            self.close()
        return ended

    def _jobs(self, mine: Callable[[Active], bool]) -> Jobs:
        return Jobs(self.batches, self.files, self._spools, mine)

    def _is_local(self, batch: Active) -> bool:
        return self.served.local(batch.model or "", batch.endpoint)

    def _route(self, batch: Active) -> str | None:
        return self.served.route(batch.model or "", batch.endpoint)

    def _expire(self) -> None:
        self.files.sweep()
        self.uploads.sweep()
