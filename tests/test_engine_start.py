"""Where an engine cannot start: what is wrong, what to do about it, and which exit code says so. In processes of their
own; a file system that is read-only or full is a mount of that process alone."""

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from embedfill.engine.state.schema import VERSION

ENGINE = (sys.executable, "-m", "embedfill.engine")
MOUNTS = ("unshare", "--user", "--map-root-user", "--mount")


def _fails(*command: str, code: int) -> str:
    """What it says; it is to be two lines, no traceback, and nothing on stdout."""
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (code, ""), ended.stderr
    error, hint = ended.stderr.splitlines()
    assert error.startswith("error: ") and hint.startswith("hint: ")
    return ended.stderr


def _mounted(script: str, folder: Path) -> str:
    """Runs `mount` commands, then the engine on `folder`."""
    if shutil.which("unshare") is None or subprocess.run([*MOUNTS, "true"], check=False).returncode:
        pytest.skip("mounts of one process are not possible here")
    return _fails(*MOUNTS, "sh", "-ec", f'{script}; exec "$@"', "sh", *ENGINE, "--data", str(folder), code=1)


def test_a_read_only_file_system(tmp_path: Path) -> None:
    read_only = f"mount --bind {tmp_path} {tmp_path}; mount -o remount,ro,bind {tmp_path}"
    said = _mounted(read_only, tmp_path)
    assert f"{tmp_path} cannot be the engine's directory: Read-only file system" in said and "--data" in said
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk(tmp_path: Path) -> None:
    fill = f"mount -t tmpfs -o size=64k full {tmp_path}; head -c 65536 /dev/zero > {tmp_path}/fill"
    said = _mounted(fill, tmp_path)
    assert f"cannot write to its data directory {tmp_path} (No space left on device)" in said
    assert "free some space" in said and "nothing is lost" in said


def test_a_database_of_a_newer_version_is_left_as_it_is(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "engine.db") as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.close()
    before = (tmp_path / "engine.db").read_bytes()
    said = _fails(*ENGINE, "--data", str(tmp_path), code=1)
    assert "newer version" in said and f"format {VERSION + 1}" in said
    connection = sqlite3.connect(tmp_path / "engine.db")
    assert connection.execute("SELECT * FROM sqlite_master").fetchall() == []
    connection.close()
    assert len((tmp_path / "engine.db").read_bytes()) == len(before)


@pytest.mark.parametrize("damaged", [True, False])
def test_a_database_that_is_none(tmp_path: Path, damaged: bool) -> None:
    path = tmp_path / "engine.db"
    if damaged:
        path.write_bytes(b"not a database, but as long as one" * 100)
    else:
        path.mkdir()
    said = _fails(*ENGINE, "--data", str(tmp_path), code=1)
    assert str(path) in said and ("is damaged" if damaged else "cannot be opened") in said


def test_a_wrong_setting(tmp_path: Path) -> None:
    config = tmp_path / "engine.toml"
    config.write_text('[engine]\ndata = "data"\nkeys.search = { env = "NO_SUCH_VARIABLE" }\n')
    ended = subprocess.run([*ENGINE, "--config", str(config)], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "engine.keys.search.env = 'NO_SUCH_VARIABLE'" in ended.stderr and "not set" in ended.stderr
    assert not (tmp_path / "data").exists()
