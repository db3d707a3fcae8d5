"""The engine as a process: lock, socket, signals, announcement, and an orderly end.

SIGTERM and SIGINT end it once what is in hand is done, a second one at once. SIGHUP has it read its keys again.
"""

import asyncio
import gc
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType

import uvicorn

from embedfill.engine import room
from embedfill.engine.address import bind, url_of
from embedfill.engine.effective import check
from embedfill.engine.folder import Folder
from embedfill.engine.http.app import create_app
from embedfill.engine.http.guard import IDLE_S, GuardedProtocol, raise_open_files
from embedfill.engine.loop import Loop
from embedfill.engine.service import Engine
from embedfill.engine.settings import EngineSettings
from embedfill.engine.telemetry import logs
from embedfill.errors import EmbedfillError, UsageError, WorldError

_USERS_S = 2.0  # the user that started us holds the lock already; others may be about to
_WATCH_S = 1.0
_LAST_S = 1.0
_INTERRUPTED = 130  # safe: what was in hand is done again

Keys = Mapping[str, str]


def serve(settings: EngineSettings, announce: Callable[[str], None], keys: Callable[[], Keys] | None = None) -> None:
    """Runs until SIGTERM or SIGINT, or, `while_used`, until nobody holds `users.lock`. `announce` gets the base URL
    once the engine answers. `keys` reads them again; without it SIGHUP, of a closed terminal, is an end. Raises
    UsageError, WorldError."""
    check(settings)
    logs.configure(settings.log_format, settings.level)
    os.umask(os.umask(0o077) | 0o077)  # what clients sent is not for the other users of this machine
    with room.explained(settings.data):
        _serve(settings, announce, keys)


def _serve(settings: EngineSettings, announce: Callable[[str], None], keys: Callable[[], Keys] | None) -> None:
    folder = Folder(settings.data)
    folder.lock()
    raise_open_files()
    sock = bind(settings, folder)
    engine = Engine(settings)
    server = _Server(engine, folder, announce, keys)
    _on_signals(server)
    _on_crash(server)
    for name in settings.preload:
        engine.pool.load(name)
    gc.freeze()  # what is loaded stays: to look through it again and again costs a third of a short request line
    due = time.monotonic() + _USERS_S
    watch = Loop("users-watch", lambda: _leave_if_unused(folder, server, due), _WATCH_S)
    engine.start()
    if settings.while_used:
        watch.start()
    server.run(sockets=[sock])
    watch.stop(0)
    if server.drained:
        engine.close()
    folder.release()
    if not server.drained:
        _leave(server.crash, settings)


class _Server(uvicorn.Server):
    """`crash`: what a thread died of. `drained`: whether everything in hand was done in time."""

    def __init__(
        self, engine: Engine, folder: Folder, announce: Callable[[str], None], keys: Callable[[], Keys] | None
    ) -> None:
        grace_s = engine.settings.grace_s
        super().__init__(
            uvicorn.Config(
                create_app(engine),
                http=GuardedProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=IDLE_S,
                timeout_graceful_shutdown=math.ceil(grace_s),
            )
        )
        self.crash: BaseException | None = None
        self.drained = False
        self._engine = engine
        self._folder = folder
        self._announce = announce
        self._keys = keys
        self._grace_s = grace_s

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_hang_up()
        if sockets and not self.should_exit:
            url = url_of(sockets[0], self._engine.settings.host)
            self._folder.announce(sockets[0].getsockname()[1], url)
            logs.info("listening", url=url, data=self._engine.data)
            self._announce(url)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Batches come to a rest while answers are still given; the database stays open for these."""
        logs.info("stopping", grace_s=self._grace_s)
        drained = asyncio.get_running_loop().run_in_executor(None, self._drain)
        await super().shutdown(sockets)
        cut = list(self.server_state.tasks)  # requests that took longer than the grace, and were just cancelled
        if cut:
            await asyncio.wait(cut, timeout=_LAST_S)  # they say so to their clients
        self.drained = await drained and not cut
        logs.info("stopped", all_done=self.drained)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """uvicorn would raise the signal again once it has stopped; to us it is a regular end."""
        if self.should_exit:
            os._exit(_INTERRUPTED)
        self.should_exit = True

    def _drain(self) -> bool:
        self._engine.quiesce()
        return self.crash is None and self._engine.drain(self._grace_s)

    def _on_hang_up(self) -> None:
        ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # nohup
        if self._keys is not None or not ignored:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._hang_up)

    def _hang_up(self) -> None:
        if self._keys is None:
            self.should_exit = True
            return
        try:
            keys = self._keys()
            if self._engine.settings.keyed and not keys:
                raise UsageError("no key is left", "stop the engine, to have it ask for none")
        except EmbedfillError as error:
            logs.error("the keys stay as they were", reason=error.message, hint=error.hint)
        else:
            self._engine.owners.replace(keys)
            logs.info("keys were read again", keys=len(keys))


def _leave_if_unused(folder: Folder, server: _Server, due: float) -> bool:
    if time.monotonic() >= due and folder.unused():
        server.should_exit = True
    return False


def _on_signals(server: _Server) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, server.handle_exit)


def _on_crash(server: _Server) -> None:
    """An engine whose worker died must not look alive: it ends with an error, and the next one goes on."""

    def crashed(args: threading.ExceptHookArgs) -> None:
        crash = args.exc_value or args.exc_type()
        logs.error("a thread died", crash, thread=args.thread.name if args.thread else None)
        server.crash = server.crash or crash
        server.should_exit = True

    threading.excepthook = crashed


def _leave(crash: BaseException | None, settings: EngineSettings) -> None:
    """A thread may still work: what it does is as safe as in a crash."""
    if crash is not None:
        _last_words(crash, settings.data, settings.log_format == "json")
    sys.stderr.flush()
    os._exit(0 if crash is None else 1)


def _last_words(crash: BaseException, data: Path, as_json: bool) -> None:
    """Below the traceback: what a user can do about it."""
    unknown = WorldError(
        f"the engine on {data} ends after an error of its own: {crash!r}", "start it again: it goes on; nothing is lost"
    )
    known = room.world_error(crash, data) or unknown
    if as_json:
        logs.error("end", message=known.message, hint=known.hint)
    else:
        sys.stderr.write(f"error: {known.message}\nhint: {known.hint}\n")
