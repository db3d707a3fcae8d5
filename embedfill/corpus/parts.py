"""The files of a corpus: finds them, fingerprints them. Does not read their rows.

The order of `list_parts` is the file order of the corpus: of two documents with one id, the first in it stays.
"""

import glob
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from embedfill.config import Config
from embedfill.errors import CorpusError
from embedfill.ids import digest_hex

_MAGIC = b"PAR1"
_ENCRYPTED = b"PARE"
_SHORTEST = 12  # magic, footer length, magic
_SETTLED_S = 2.0  # a file written again within its clock's resolution may keep its mtime
_DIGITS = re.compile(r"(\d+)")


@dataclass(frozen=True, slots=True)
class Part:
    """One file. `name` is the path as shown to users: relative to the configuration's folder where it lies below."""

    name: str
    path: Path
    size: int
    mtime_ns: int
    inode: int


def list_parts(config: Config) -> list[Part]:
    """The files that `corpus.paths` names, each once, in natural order of their names (part-2 before part-10).

    A directory stands for every *.parquet file below it. Raises CorpusError for an entry that matches nothing.
    """
    found = {path for pattern in config.corpus.paths for path in _expand(pattern, config.base)}
    parts: dict[Path, Part] = {}
    for name, path in sorted(((_shown(path, config.base), path) for path in found), key=lambda pair: _order(pair[0])):
        parts.setdefault(path.resolve(), _part(name, path))
    return list(parts.values())


def fingerprint(part: Part) -> dict[str, Any]:
    """What tells a later version of the file apart, as JSON: stat values and the digest of the Parquet footer.

    Raises CorpusError when the file is not a whole Parquet file.
    """
    try:
        with part.path.open("rb") as file:
            check_unchanged(part, file)
            footer = _footer(part, file)
    except OSError as error:
        raise unreadable(part.name, error) from None
    stats = {"name": part.name, "size": part.size, "mtime_ns": part.mtime_ns, "inode": part.inode}
    return {**stats, "footer": digest_hex("footer", footer)}


def trusted(fingerprint: dict[str, Any], scanned_at: float) -> bool:
    """Whether an equal fingerprint means an equal file: not when the file had just been written as it was scanned.

    `scanned_at` is seconds since the epoch, taken before the fingerprint.
    """
    return scanned_at - float(fingerprint["mtime_ns"]) / 1e9 > _SETTLED_S


def check_unchanged(part: Part, file: BinaryIO) -> None:
    """Raises CorpusError when the open file is not the one that was listed."""
    now = os.fstat(file.fileno())
    if (now.st_size, now.st_mtime_ns, now.st_ino) != (part.size, part.mtime_ns, part.inode):
        raise CorpusError(part.name, "changed while the corpus was read", "run again when nothing writes to it")


def unreadable(name: str, error: OSError) -> CorpusError:
    """The corpus error for a file that the system would not let us read."""
    return CorpusError(
        name, f"cannot be read ({error.strerror or error})", "check that the file is there, and its rights"
    )


def _expand(pattern: str, base: Path) -> Iterator[Path]:
    folder = base.absolute()
    path = folder / Path(pattern).expanduser()
    paths = [path] if path.exists() else [folder / found for found in _glob(str(Path(pattern).expanduser()), folder)]
    files = [file for found in paths for file in (_below(found) if found.is_dir() else [found])]
    if not files:
        raise _nothing(pattern, path)
    yield from files


def _below(folder: Path) -> list[Path]:
    return [folder / found for found in _glob("**/*.parquet", folder)]


def _glob(pattern: str, folder: Path) -> list[str]:
    # Not Path.glob: that takes no absolute pattern, and before Python 3.13 does not follow links to directories.
    return glob.glob(pattern, root_dir=folder, recursive=True)  # noqa: PTH207


def _nothing(pattern: str, path: Path) -> CorpusError:
    if path.is_dir():
        return CorpusError(pattern, "there is no .parquet file in this directory", f"looked below {path}")
    what = "no file matches" if glob.has_magic(pattern) else "no such file"
    return CorpusError(pattern, f"{what} (corpus.paths)", f"looked for {path}")


def _shown(path: Path, base: Path) -> str:
    folder, whole = base.absolute(), Path(os.path.normpath(path))
    return (whole.relative_to(folder) if whole.is_relative_to(folder) else whole).as_posix()


def _order(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Natural order: runs of digits compare as numbers; the name itself breaks ties such as 1 and 01."""
    pieces = [(0, int(piece), "") if piece.isdecimal() else (1, 0, piece) for piece in _DIGITS.split(name) if piece]
    return pieces, name


def _part(name: str, path: Path) -> Part:
    try:
        info = path.stat()
    except OSError as error:
        raise unreadable(name, error) from None
    if not stat.S_ISREG(info.st_mode):
        raise CorpusError(name, "is not a regular file", "a corpus is made of Parquet files")
    if any("\ud800" <= character <= "\udfff" for character in name):
        raise CorpusError(ascii(name), "its name is not UTF-8", "rename it")
    return Part(name, path, info.st_size, info.st_mtime_ns, info.st_ino)


def _footer(part: Part, file: BinaryIO) -> bytes:
    if part.size < _SHORTEST:
        raise _not_whole(part, "is empty" if part.size == 0 else f"has only {part.size} bytes")
    head = file.read(4)
    file.seek(part.size - 8)
    tail = file.read(8)
    if _ENCRYPTED in (head, tail[4:]):
        raise CorpusError(part.name, "is an encrypted Parquet file", "write it again without encryption")
    if head != _MAGIC:
        raise CorpusError(part.name, "is not a Parquet file", "convert it, or leave it out of corpus.paths")
    start = part.size - 8 - int.from_bytes(tail[:4], "little")
    if tail[4:] != _MAGIC or start < 4:
        raise _not_whole(part, "is cut short: it does not end as a Parquet file does")
    file.seek(start)
    return file.read(part.size - 8 - start)


def _not_whole(part: Part, what: str) -> CorpusError:
    return CorpusError(part.name, what, "copy or write the file again, or leave it out of corpus.paths")
