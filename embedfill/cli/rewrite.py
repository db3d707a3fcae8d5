"""A configuration with settings put into it, written to its own place or to another file. Finds nothing out; says
beforehand whether it will go."""

import os
import shutil
import stat
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedfill.cli.merge import merged
from embedfill.errors import UsageError

_BOM = "\ufeff"
_HINT = "name a file that can be written"


@dataclass(frozen=True, slots=True)
class Rewrite:
    """From `config` to `path`, which may be the same; what a link at `path` leads to is replaced, not the link."""

    config: Path
    path: Path

    def check(self, settings: Mapping[str, Mapping[str, Any]]) -> None:
        """Raises UsageError where these settings, or any of them, could not be written now."""
        self._text(settings)
        target = self._target
        with self._told():
            self._check_replaceable(target)
            with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name[:50]}."):
                pass  # that one can be made tells more than permissions do

    def write(self, settings: Mapping[str, Mapping[str, Any]]) -> None:
        """Into the configuration as it is now. Raises UsageError."""
        text, target = self._text(settings), self._target
        with self._told():
            like = target if target.exists() else self.config
            handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:50]}.")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(text.encode())
                    file.flush()
                    os.fsync(handle)  # what it replaces may be the only copy
                _same_owner(name, like)
                shutil.copymode(like, name)
                Path(name).replace(target)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise

    @property
    def _target(self) -> Path:
        return Path(os.path.realpath(self.path))  # Path.resolve raises for a link that leads to itself

    def _text(self, settings: Mapping[str, Mapping[str, Any]]) -> str:
        try:
            text = self.config.read_bytes().decode()
        except OSError as error:
            raise UsageError(f"{self.config}: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise UsageError(f"{self.config}: {error}") from None
        mark = _BOM if text.startswith(_BOM) else ""
        try:
            return mark + merged(text.removeprefix(_BOM), settings)
        except UsageError as error:
            raise UsageError(f"{self.config}: {error.message}", error.hint) from None

    def _check_replaceable(self, target: Path) -> None:
        """What is there must be an ordinary file that we may write, and hold TOML: else it was named by mistake."""
        try:
            mode = target.stat().st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISREG(mode):
            raise UsageError(f"{self.path} is no ordinary file", _HINT)
        if not os.access(target, os.W_OK):
            raise UsageError(f"{self.path}: may not be written", _HINT)
        try:
            tomllib.loads(target.read_text(encoding="utf-8-sig"))
        except ValueError:
            raise UsageError(f"{self.path} exists and is no TOML file: it is not replaced", _HINT) from None

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UsageError(f"{self.path}: {error.strerror}", _HINT) from None


def _same_owner(path: str, like: Path) -> None:
    """As far as we may: root can, and others write their own files anyway."""
    if hasattr(os, "chown"):
        found = like.stat()
        with suppress(PermissionError):
            os.chown(path, found.st_uid, found.st_gid)
