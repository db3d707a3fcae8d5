"""Whether a claim's maker is dead: known of this machine's own processes, never of others."""

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from embedfill.records import Maker
from embedfill.tracker import maker
from embedfill.tracker.maker import is_dead, this_maker
from tests.engine_fixtures import until
from tests.tracker_fixtures import dead_maker, foreign_maker

_MAKER = """
import pickle, sys
from embedfill.tracker.maker import this_maker
sys.stdout.buffer.write(pickle.dumps(this_maker()))
sys.stdout.flush()
sys.stdin.read()
"""


@pytest.fixture
def other() -> "Iterator[subprocess.Popen[bytes]]":
    process = subprocess.Popen([sys.executable, "-c", _MAKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def said(process: "subprocess.Popen[bytes]") -> Maker:
    assert process.stdout is not None
    found: Maker = pickle.load(process.stdout)
    return found


def test_this_process_is_itself_and_alive() -> None:
    assert this_maker() == this_maker()
    assert this_maker().pid == os.getpid() and this_maker().boot
    assert not is_dead(this_maker())


def test_another_process_lives_until_it_is_killed(other: "subprocess.Popen[bytes]") -> None:
    found = said(other)
    assert found.pid == other.pid and found != this_maker()
    assert not is_dead(found)
    other.kill()
    until(lambda: is_dead(found), bool)  # a zombie is dead: nobody has waited for it yet
    other.wait()
    assert is_dead(found)


def test_a_later_process_of_the_same_number_is_another() -> None:
    assert is_dead(replace(this_maker(), ticks=this_maker().ticks - 1))


def test_a_process_that_is_gone_is_dead() -> None:
    assert is_dead(dead_maker())


@pytest.mark.parametrize("change", [{"boot": "another"}, {"pidns": "pid:[1]"}, {"boot": ""}])
def test_what_cannot_be_seen_is_never_called_dead(change: dict[str, str]) -> None:
    assert not is_dead(replace(dead_maker(), **change))
    assert not is_dead(foreign_maker())


def test_a_process_that_proc_hides_is_not_called_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """With hidepid, other users' processes are not in /proc."""

    def hidden(pid: int) -> int:
        if pid != os.getpid():
            raise FileNotFoundError(pid)
        return 7

    monkeypatch.setattr(maker, "_start_ticks", hidden)
    assert not is_dead(replace(this_maker(), pid=os.getppid()))
    assert is_dead(replace(this_maker(), pid=dead_maker().pid))


def test_where_there_is_no_proc_nobody_is_called_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> str:
        raise FileNotFoundError

    dead = dead_maker()
    monkeypatch.setattr(maker, "_boot", absent)
    me = this_maker()
    assert me == this_maker() and me.boot == "" and len(me.pidns) == 32
    assert not is_dead(dead) and not is_dead(me) and not is_dead(replace(me, pidns="another's token"))


def test_a_command_name_may_hold_anything() -> None:
    """Field 2 of /proc/PID/stat is the name in brackets, and may hold brackets and spaces itself."""
    code = "import ctypes, sys; ctypes.CDLL(None).prctl(15, b') S 1 (', 0, 0, 0);" + _MAKER
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        found = said(process)
        assert not is_dead(found) and found.ticks >= this_maker().ticks
    finally:
        process.communicate(b"")
