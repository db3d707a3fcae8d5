"""Who makes claims: this process, and whether another maker is known to be dead. Death is never inferred from afar."""

import os
from pathlib import Path

from embedfill.records import Maker


def this_maker() -> Maker:
    """This process. Where the system has no /proc, `boot` is empty and nobody can infer its death."""
    pid = os.getpid()
    try:
        return Maker(_boot(), str(Path("/proc/self/ns/pid").readlink()), pid, _start_ticks(pid))
    except OSError:
        return Maker("", "", pid, 0)


def is_dead(maker: Maker) -> bool:
    """True only where the maker was a process that this one could see, and it is no longer there."""
    me = this_maker()
    if not me.boot or (maker.boot, maker.pidns) != (me.boot, me.pidns):
        return False
    try:
        return _start_ticks(maker.pid) != maker.ticks
    except OSError:
        return True


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _start_ticks(pid: int) -> int:
    """Field 22 of /proc/PID/stat; the command name before it may hold anything, so count from its last bracket. A
    zombie counts as gone."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return -1 if fields[0] == "Z" else int(fields[19])
