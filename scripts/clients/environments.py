"""One virtual environment for each client, kept for the next run. Uses uv where there is one."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def environment(home: Path, requires: Sequence[str]) -> Path:
    """The interpreter of an environment with these packages; quick where it is there already. What was interrupted is
    made anew."""
    folder = home / _name(requires)
    python = folder / "bin" / "python"
    stamp = folder / ".stamp"
    wanted = "\n".join((sys.version, str(folder), *requires))
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"== installing {' '.join(requires)}", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        _install(folder, python, requires)
        stamp.write_text(wanted)
    return python


def _name(requires: Sequence[str]) -> str:
    """Those that want the same share an environment."""
    return "-".join("".join(c if c.isalnum() else "_" for c in one) for one in requires)


def _install(folder: Path, python: Path, requires: Sequence[str]) -> None:
    # Without a pip of its own, which takes as long as most clients: ours installs into it.
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, stdin=subprocess.DEVNULL)
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--quiet", "--no-input"]
    uv = shutil.which("uv")
    commands = [[uv, "pip", "install", "--quiet", "--python", str(python), *requires]] if uv else []
    commands.append([*pip, "--disable-pip-version-check", *requires])
    for command in commands:  # uv may know nothing of the package index that pip is set to
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode == 0:
            return
    raise SystemExit(f"error: could not install {' '.join(requires)}:\n{done.stderr[-3000:]}")
