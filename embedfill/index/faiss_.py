"""The one place that imports FAISS: sets how its threads wait, then loads it. Nothing else may import it.

OpenMP reads its environment once, when the library is loaded: without `passive`, idle FAISS threads spin and take the
cores of everything else in the process. A process that has searched must not fork (the child hangs in its first search):
start children with "spawn".
"""

import os
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

from embedfill import cores
from embedfill.errors import SearchIndexError

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
faiss: Any = import_module("faiss")  # some versions ship stubs and some do not: typed as Any for all of them

FaissIndex: TypeAlias = Any


def use_threads(threads: int) -> None:
    """How many threads FAISS takes in the calling thread from now on; 0 means the cores that this process may use."""
    faiss.omp_set_num_threads(threads or cores.available())


def write(index: FaissIndex, path: Path) -> None:
    """Writes an index to a file. Raises SearchIndexError (a full disk, for one)."""
    try:
        faiss.write_index(index, str(path))
    except RuntimeError as error:
        raise SearchIndexError(f"{path}: could not be written: {_first_line(error)}") from error


def read(path: Path, flags: int = 0) -> FaissIndex:
    """Reads an index. Raises SearchIndexError naming a file that is missing or damaged."""
    try:
        return faiss.read_index(str(path), flags)
    except (RuntimeError, MemoryError) as error:
        message = f"{path}: not a readable FAISS index: {_first_line(error)}"
        raise SearchIndexError(message, "the file is missing or damaged: build the index again") from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
