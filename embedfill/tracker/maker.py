"""Who makes claims: this process, and whether another maker is known to be dead. Death is never inferred from afar."""

import functools
import os
import secrets
from pathlib import Path

from embedfill.records import Maker

in_hand: set[str] = set()  # nonces of the claims that some thread of this process is about to post


def this_maker() -> Maker:
    """This process. Where the system has no /proc, `boot` is empty and nobody can infer its death; a token then tells
    it from a process of the same number elsewhere."""
    pid = os.getpid()
    try:
        return Maker(_boot(), str(Path("/proc/self/ns/pid").readlink()), pid, _start_ticks(pid))
    except OSError:
        return Maker("", _token(), pid, 0)


def is_dead(maker: Maker) -> bool:
    """True only where the maker was a process that this one could see, and it is no longer there."""
    me = this_maker()
    if not me.boot or (maker.boot, maker.pidns) != (me.boot, me.pidns):
        return False
    try:
        return _start_ticks(maker.pid) != maker.ticks
    except OSError:
        return not _exists(maker.pid)


def _exists(pid: int) -> bool:
    """Whether there is such a process, also one that /proc hides from us since it is another user's."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@functools.cache
def _token() -> str:
    return secrets.token_hex(16)


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _start_ticks(pid: int) -> int:
    """Field 22 of /proc/PID/stat; the command name before it may hold anything, so count from its last bracket. A
    zombie counts as gone."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return -1 if fields[0] == "Z" else int(fields[19])
