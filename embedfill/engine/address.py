"""Where the engine listens: the host that it may, and the port that it can have. Accepts no connection."""

import errno
import ipaddress
import re
import socket

from embedfill.engine.folder import Folder
from embedfill.engine.settings import KEY_VARIABLE, EngineSettings
from embedfill.errors import UsageError, WorldError
from embedfill.providers.client import is_loopback

_BACKLOG = 128
_NAME = re.compile(r"(?=.{1,253}$)([A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}")


def check_host(settings: EngineSettings) -> None:
    """Raises UsageError for what is no host, and for one that others can reach, where no key is asked for."""
    if not _is_host(settings.host):
        raise UsageError(
            f"--host {settings.host} is neither an address nor a name", "give the address alone; the port is --port's"
        )
    if not settings.keyed and not is_loopback(f"http://{_in_url(settings.host)}"):
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
    raise WorldError(f"cannot listen on {settings.host}, port {settings.port}: {failure}", _remedy(failure))


def _remedy(failure: OSError | None) -> str:
    match failure.errno if failure else None:
        case errno.EADDRINUSE:
            return "stop what uses it, or let --port 0 pick one"
        case errno.EACCES | errno.EPERM:
            return "give a --port above 1023: others are the system's"
        case _:
            return "give an address of this machine as --host, such as 127.0.0.1, or 0.0.0.0 for all that it has"


def url_of(sock: socket.socket, host: str) -> str:
    """The base URL of clients on this host."""
    return f"http://{_in_url(host)}:{sock.getsockname()[1]}/v1"


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _is_host(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return _NAME.fullmatch(host) is not None
    return True


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
