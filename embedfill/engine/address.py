"""Where the engine listens: the host that it may, and the port that it can have. Accepts no connection."""

import ipaddress
import socket

from embedfill.engine.folder import Folder
from embedfill.engine.settings import KEY_VARIABLE, EngineSettings
from embedfill.errors import UsageError, WorldError

_BACKLOG = 128


def check_host(settings: EngineSettings) -> None:
    """Raises UsageError for a host that others can reach, where no key is asked for."""
    if not settings.keyed and not _is_loopback(settings.host):
        raise UsageError(
            f"--host {settings.host} would let everybody in who reaches it",
            f"give a key with --api-key, {KEY_VARIABLE} or [engine.keys], or bind 127.0.0.1",
        )


def bind(settings: EngineSettings, folder: Folder) -> socket.socket:
    """A listening socket on the port asked for; on 0 the last one, so that an engine comes back at its old URL. Raises
    WorldError."""
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


def url_of(sock: socket.socket, host: str) -> str:
    """The base URL of clients on this host."""
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{sock.getsockname()[1]}/v1"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # else a restart waits for old connections to die
        sock.bind((host, port))
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock
