"""Disk space that a run needs beside what is there already, and what is free. Reckons generously; writes nothing."""

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from embedfill.index import plan
from embedfill.project import Project
from embedfill.providers.connect import engine_data

_ROW_BYTES = (
    4 + 16 + 16 + 4
)  # beside the numbers of a vector: its id in the pack and beside it, and its share of a footer
_PLACE_BYTES, _TEXT_BYTES = 28, 24  # of the index' tables
_DOCUMENT_BYTES = 64  # an id and some metadata: a guess
_INDEX_BYTES = 16_000  # headers of the index' files


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be sent: texts, bytes of the batch files and, at most, of the output files; and the largest of each."""

    texts: int = 0
    upload: int = 0
    download: int = 0
    largest_texts: int = 0
    largest_upload: int = 0
    largest_download: int = 0

    def add(self, texts: int, upload: int, download: int) -> "Work":
        """With one more batch."""
        return Work(
            self.texts + texts,
            self.upload + upload,
            self.download + download,
            max(self.largest_texts, texts),
            max(self.largest_upload, upload),
            max(self.largest_download, download),
        )


@dataclass(frozen=True, slots=True)
class Room:
    """`needed` bytes below `path`, of which `parts` says for what. `free` is what its disk has, None for a bucket.
    `short`: it has less than all that is needed on it."""

    path: str
    needed: int
    free: int | None
    short: bool
    parts: Mapping[str, int]


def rooms(project: Project, work: Work, documents: int, chunks: int, texts: int) -> dict[str, Room]:
    """Store, cache and, where this machine computes the vectors, engine. The counts are those of the whole corpus."""
    if not work.texts:
        index = 0
    else:
        tables = chunks * _PLACE_BYTES + texts * _TEXT_BYTES + documents * _DOCUMENT_BYTES
        index = _index_bytes(texts, project) + tables + _INDEX_BYTES
    row = 4 * project.model.dimensions + _ROW_BYTES
    store = {"shards": work.upload, "packs": work.texts * row, "index": index}
    cache = {
        "batch_file": work.largest_upload,  # one at a time; so are those that come back
        "output_files": work.largest_download,
        "pack": work.largest_texts * row,
        "index": index,
    }
    at = project.store.local_path("index")
    if at is None:
        cache["copies"] = sum(store.values())
    found = {"store": _room(at.parent if at else None, project.store.url, store)}
    found["cache"] = _room(project.cache.root, "", cache)
    if project.profile.name == "local":
        engine = engine_data(project.config, project.store, project.cache)
        parts = {"batch_files": work.upload, "results": work.download, "output_files": work.download}
        found["engine"] = _room(engine, "", parts)
    return dict(_judged(found))


def _index_bytes(rows: int, project: Project) -> int:
    chosen = plan.choose(rows, project.model.dimensions, project.config.index.memory)
    return chosen.resident_bytes + (rows * project.model.dimensions * 2 if chosen.lists else 0)


def _room(folder: Path | None, url: str, parts: dict[str, int]) -> Room:
    free = shutil.disk_usage(_standing(folder)).free if folder else None
    return Room(str(folder or url), sum(parts.values()), free, False, parts)


def _judged(found: dict[str, Room]) -> Iterator[tuple[str, Room]]:
    """Folders on one disk share what is free there."""
    disks = {name: _standing(Path(room.path)).stat().st_dev for name, room in found.items() if room.free is not None}
    needed: Counter[int] = Counter()
    for name, disk in disks.items():
        needed[disk] += found[name].needed
    for name, room in found.items():
        yield name, replace(room, short=room.free is not None and needed[disks[name]] > room.free)


def _standing(folder: Path) -> Path:
    """The folder, or what stands of the path to it."""
    return next(path for path in (folder, *folder.parents) if path.exists())
