"""The store's own engine as a process: finds the running one or starts it, and lets it go at the end.

Whoever uses the engine holds a shared lock on `users.lock` in its data directory. The engine, started with
`--while-used`, stops once nobody holds it: also when its users were killed, since the kernel drops their locks.
"""

import contextlib
import fcntl
import os
import secrets
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import httpx
import orjson
from pydantic import SecretStr

from embedfill.errors import ProviderError

_START_S = 60.0
_STOP_S = 10.0
_STARTS = 3  # that fail: one may, where another run's engine has the directory already and does not answer yet
_LOG = "engine.log"
_LOG_BYTES = 1_000_000


class LocalEngine:
    """A context in which an engine runs on `data`. `url` is its base URL; `revive` brings it back if it died."""

    def __init__(self, data: Path, threads: int = 0) -> None:
        self.data = data
        self.url = ""
        self.key = SecretStr("")
        self._threads = threads
        self._users: IO[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._reviving = threading.Lock()

    def __enter__(self) -> Self:
        try:
            self._take()
            self.revive()
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def _take(self) -> None:
        try:
            self.data.mkdir(parents=True, exist_ok=True)
            self._users = (self.data / "users.lock").open("ab")
            # An engine that is on its way out holds this lock until it has gone.
            fcntl.flock(self._users, fcntl.LOCK_SH)
            self.key = _stable_key(self.data / "key")
        except OSError as error:
            message = f"the local engine cannot use the directory {self.data}: {error.strerror}"
            raise ProviderError(message, "give one that can be written as engine.data") from error

    def _leave(self) -> None:
        if self._users is not None:
            self._stop_if_last(self._users)
            self._users.close()

    def _stop_if_last(self, users: IO[bytes]) -> None:
        """Stops the engine that we started at once, if nobody else uses it; else it sees the end of use by itself."""
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()  # safe: it finishes its lines at the next start
                self._process.wait()

    def revive(self) -> None:
        """Makes sure that an engine answers at `url`. Raises ProviderError when it cannot be started."""
        with self._reviving:
            deadline, failed = time.monotonic() + _START_S, 0
            while not self._answers():
                code = self._process.poll() if self._process else 0
                if code is not None:
                    failed += code > 0  # killed from outside (negative): it is started again
                    self._check(failed, code)
                    self._start()
                if time.monotonic() > deadline:
                    raise ProviderError(f"the local engine did not answer within {_START_S:.0f} s", self._log_hint())
                time.sleep(0.05)

    def _answers(self) -> bool:
        """Whether the engine that announced itself here answers, and to our key: another server may have its port now."""
        try:
            self.url = str(orjson.loads((self.data / "engine.json").read_bytes())["url"])
            headers = {"Authorization": f"Bearer {self.key.get_secret_value()}"}
            return httpx.get(self.url + "/models", headers=headers, timeout=2.0, trust_env=False).is_success
        except (OSError, ValueError, TypeError, KeyError, httpx.HTTPError, httpx.InvalidURL):
            return False

    def _start(self) -> None:
        command = [sys.executable, "-m", "embedfill.engine", "--port", "0", "--data", str(self.data), "--while-used"]
        if self._threads:
            command += ["--threads", str(self._threads)]
        with _log_of(self.data / _LOG) as log:
            # A session of its own: Ctrl-C in our terminal must not stop a line that it has in hand.
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, "EMBEDFILL_ENGINE_KEY": self.key.get_secret_value()},
            )  # fmt: skip

    def _check(self, failed: int, code: int) -> None:
        if failed >= _STARTS:
            raise ProviderError(f"the local engine stopped with exit code {code}", self._log_hint())

    def _log_hint(self) -> str:
        return f"its last words are in {self.data / _LOG}"


def _log_of(path: Path) -> IO[bytes]:
    """Appended to, but not for ever: one that is full makes room, and the last one is kept."""
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > _LOG_BYTES:
            path.replace(path.with_suffix(".log.1"))
    return path.open("ab")


def _stable_key(path: Path) -> SecretStr:
    """The key of this data directory's engine, readable by its owner alone; made at first use."""
    temp = path.with_name(f".key-{os.getpid()}-{secrets.token_hex(4)}")
    if not path.exists():
        descriptor = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w") as file:  # noqa: PTH123 - a descriptor
            file.write(secrets.token_urlsafe(32))
        with contextlib.suppress(FileExistsError):
            os.link(temp, path)
        temp.unlink()
    return SecretStr(path.read_text())
