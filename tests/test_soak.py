"""The soak's script, for some seconds: what it finds in minutes is for whoever runs it."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / "scripts" / "soak"


def test_some_seconds_of_it(tmp_path: Path) -> None:
    sizes = ["--minutes", "0.05", "--clients", "3", "--batches", "5", "--every", "1.5", "--lines", "100", "--local"]
    run = [sys.executable, str(SCRIPT), *sizes, "--data", str(tmp_path / "soak")]
    done = subprocess.run(run, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "| batches | 5 |" in done.stdout and "| violations | 0 |" in done.stdout


def test_it_says_what_is_missing() -> None:
    bare = subprocess.run([sys.executable, "-S", str(SCRIPT)], capture_output=True, text=True, timeout=60, check=False)
    assert bare.returncode == 1 and "Traceback" not in bare.stderr
    assert bare.stderr.startswith("error: the package ") and "pip install" in bare.stderr
