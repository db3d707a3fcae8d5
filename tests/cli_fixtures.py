"""The command line as a script sees it: exit code, stdout and stderr, in this process or in one of its own."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from embedfill.cli.main import call


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one object on stdout, which must hold nothing else."""
        assert self.out.endswith("\n") and self.out.count("\n") == 1, self.out
        value = orjson.loads(self.out)
        assert isinstance(value, dict)
        return value

    @property
    def error(self) -> dict[str, str]:
        """What `--json` says of an error; the same words must stand on stderr, without a traceback."""
        error: dict[str, str] = self.json["error"]
        assert set(error) == {"code", "message", "hint"}
        first, *_ = error["message"].splitlines()
        assert first in self.err and "Traceback" not in self.err
        return error


Cli = Callable[..., Ran]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    """`cli("run", path, "--json")` in this process."""

    def run(*arguments: object) -> Ran:
        capfd.readouterr()
        code = call([str(argument) for argument in arguments])
        sys.stdout.flush()
        return Ran(code, *capfd.readouterr())

    return run


def run_process(*arguments: object, **options: Any) -> Ran:
    """The same as a process of its own."""
    command = [sys.executable, "-m", "embedfill.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=120, **options)
    return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())


def everything_below(folder: Path) -> list[str]:
    """Every file and directory, to see that nothing was made."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
