"""The engine as a process: lock, socket, signals, announcement, and an orderly end."""

import ipaddress
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import uvicorn

from embedfill.engine import room
from embedfill.engine.app import create_app
from embedfill.engine.folder import Folder
from embedfill.engine.loop import Loop
from embedfill.engine.service import Engine
from embedfill.engine.settings import EngineSettings
from embedfill.errors import UsageError, WorldError

_GRACE_S = 2.0  # the user that started us holds the lock already; others may be about to
_DRAIN_S = 3
_WATCH_S = 1.0


def serve(settings: EngineSettings, announce: Callable[[str], None]) -> None:
    """Runs until SIGTERM or SIGINT, or, `while_used`, until nobody holds `users.lock`. `announce` gets the base URL
    once the engine answers. Raises UsageError, WorldError."""
    _check_host(settings)
    with room.explained(settings.data):
        _serve(settings, announce)


def _serve(settings: EngineSettings, announce: Callable[[str], None]) -> None:
    folder = Folder(settings.data)
    folder.lock()
    sock = _bind(settings, folder)
    engine = Engine(settings)
    for name in settings.preload:
        engine.pool.runner(name)
    server = _Server(engine, settings, folder, announce)
    _on_signals(server)
    _on_crash(server)
    due = time.monotonic() + _GRACE_S
    watch = Loop("users-watch", lambda: _leave_if_unused(folder, server, due), _WATCH_S)
    engine.start()
    if settings.while_used:
        watch.start()
    server.run(sockets=[sock])
    watch.stop(0)
    ended = server.crash is None and engine.stop()
    folder.release()
    if not ended:
        if server.crash is not None:
            _last_words(server.crash, settings.data)
        sys.stderr.flush()
        os._exit(0 if server.crash is None else 1)  # a thread may still work: what it does is as safe as in a crash


class _Server(uvicorn.Server):
    def __init__(
        self, engine: Engine, settings: EngineSettings, folder: Folder, announce: Callable[[str], None]
    ) -> None:
        app = create_app(engine)
        super().__init__(
            uvicorn.Config(
                app, lifespan="off", log_level="warning", access_log=False, timeout_graceful_shutdown=_DRAIN_S
            )
        )
        self.crash: BaseException | None = None
        self._host = settings.host
        self._folder = folder
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        port = sockets[0].getsockname()[1] if sockets else 0
        host = f"[{self._host}]" if ":" in self._host else self._host
        url = f"http://{host}:{port}/v1"
        self._folder.announce(port, url)
        self._announce(url)


def _leave_if_unused(folder: Folder, server: _Server, due: float) -> bool:
    if time.monotonic() >= due and folder.unused():
        server.should_exit = True
    return False


def _check_host(settings: EngineSettings) -> None:
    if not settings.keyed and not _is_loopback(settings.host):
        raise UsageError(
            f"--host {settings.host} would let everybody in who reaches it",
            "give a key with --api-key or EMBEDFILL_ENGINE_KEY, or bind 127.0.0.1",
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _bind(settings: EngineSettings, folder: Folder) -> socket.socket:
    """A listening socket on the port asked for; on 0 the last one, so that an engine comes back at its old URL."""
    ports = (settings.port,) if settings.port else (folder.last_port(), 0)
    failure: OSError | None = None
    for port in ports:
        try:
            return _listen(settings.host, port)
        except OSError as error:
            failure = error
    raise WorldError(
        f"cannot listen on {settings.host}, port {settings.port}: {failure}",
        "stop what uses it, or let --port 0 pick one",
    )


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # else a restart waits for old connections to die
        sock.bind((host, port))
        sock.listen(128)
    except OSError:
        sock.close()
        raise
    return sock


def _on_signals(server: _Server) -> None:
    """uvicorn raises a signal again once it has stopped; ours says that this was a regular end."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


def _on_crash(server: _Server) -> None:
    """An engine whose worker died must not look alive: it ends with an error, and the next one goes on."""
    report = threading.excepthook

    def crashed(args: threading.ExceptHookArgs) -> None:
        report(args)
        server.crash = server.crash or args.exc_value or args.exc_type()
        server.should_exit = True

    threading.excepthook = crashed


def _last_words(crash: BaseException, data: Path) -> None:
    """Below the traceback: what a user can do about it."""
    unknown = WorldError(
        f"the engine on {data} ends after an error of its own: {crash!r}", "start it again: it goes on; nothing is lost"
    )
    known = room.world_error(crash, data) or unknown
    sys.stderr.write(f"error: {known.message}\nhint: {known.hint}\n")
