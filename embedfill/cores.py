"""How many cores are given to this process, and numbers of threads that never exceed them. Starts no thread.

A container's share of a machine may be a quota of time, which no list of cores shows: the control group tells it.
"""

import functools
import os
from collections.abc import Iterator
from pathlib import Path

# What libraries read when they are loaded; of quotas most of them know nothing.
_LIBRARIES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")


def available() -> int:
    """Whole cores that this process may use, at least one: a thread on half a core would be stopped half of the time."""
    listed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _own_quota()
    return listed if quota is None else max(1, min(listed, int(quota)))


def threads(wanted: int) -> int:
    """`wanted` threads, but no more than there are cores; 0 means one per core."""
    return min(wanted or available(), available())


def bound_libraries() -> None:
    """Holds the threads of numpy, OpenMP and tokenizers to our cores, unless the user has set them. Call it before they
    are loaded: later it has no effect."""
    for name in _LIBRARIES:
        os.environ.setdefault(name, str(available()))


def quota(root: Path = Path("/")) -> float | None:
    """Cores that the control groups of this process allow, of both versions; None where nothing limits them. `root` is
    where `proc` and `sys` lie."""
    found = (limit for folder in _groups(root) if (limit := _limit(folder)) is not None)
    return min(found, default=None)


@functools.cache
def _own_quota() -> float | None:
    return quota()


def _groups(root: Path) -> Iterator[Path]:
    """Folders whose limits hold for this process: of its groups, and of all groups around them."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounts = ("", "unified") if not controllers else (controllers, "cpu")
        for mount in mounts:
            base = root / "sys/fs/cgroup" / mount
            inner = base / group.strip().lstrip("/")
            # In a container the path may be one of the host's, which is not there: then only `base` is.
            yield from (folder for folder in (inner, *inner.parents) if folder.is_relative_to(base))


def _limit(folder: Path) -> float | None:
    allowed, _, period = _read(folder / "cpu.max").partition(" ")
    if not allowed:
        allowed, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
    try:
        return int(allowed) / int(period) if int(allowed) > 0 else None
    except (ValueError, ZeroDivisionError):
        return None  # "max", or no such file


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
