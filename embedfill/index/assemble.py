"""From packs and catalog to an index in the store: gathers the wanted vectors, builds, measures, and puts the files.

Rows are the wanted texts that have vectors, in pack order; of a text in several packs the first one serves.
"""

import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedfill import ids
from embedfill.catalog.live import load_live, places, wanted_texts
from embedfill.config import IndexConfig
from embedfill.ids import IdArray, IdSet
from embedfill.index.build import build_index
from embedfill.index.places import write_places
from embedfill.index.source import VectorSource
from embedfill.loader.packs import read_pack, row_ids
from embedfill.models.base import Vectors
from embedfill.records import Catalog, IndexManifest
from embedfill.store import layout
from embedfill.store.base import Store
from embedfill.store.cache import Cache


@dataclass(frozen=True, slots=True)
class Assembled:
    """A built index, its files in the store. `places` are the chunks that can be found."""

    manifest: IndexManifest
    texts: int
    places: int


@dataclass(frozen=True, slots=True)
class Gathered:
    """Which rows of each pack serve: masks over the packs' rows, in the packs' order."""

    packs: tuple[Path, ...]
    masks: tuple[NDArray[np.bool_], ...]
    ids: IdArray

    def batches(self) -> Iterator[tuple[IdArray, Vectors]]:
        for pack, mask in zip(self.packs, self.masks, strict=True):
            start = 0
            for text_ids, vectors in read_pack(pack):
                serve = mask[start : start + len(text_ids)]
                start += len(text_ids)
                if serve.any():
                    yield text_ids[serve], vectors[serve]


def gather(cache: Cache, packs: Sequence[str], wanted: IdSet) -> Gathered:
    """Finds the wanted rows of each pack by its ids alone. Memory: 17 bytes a row."""
    serving, masks, paths = IdSet(), list[NDArray[np.bool_]](), list[Path]()
    rows: list[IdArray] = [ids.array([])]
    for pack in packs:
        path = cache.path(pack)
        text_ids = row_ids(path)
        mask = wanted.has(text_ids)
        mask[mask] = serving.add(text_ids[mask])
        if mask.any():
            paths.append(path)
            masks.append(mask)
            rows.append(text_ids[mask])
    return Gathered(tuple(paths), tuple(masks), np.concatenate(rows))


def wanted_ids(cache: Cache, catalog: Catalog, versions: IdArray) -> IdSet:
    wanted = IdSet()
    for batch in wanted_texts(cache, catalog, versions):
        wanted.add(ids.from_arrow(batch.column("text_id")))
    return wanted


def assemble(
    store: Store, cache: Cache, catalog: Catalog, packs: Sequence[str], dimensions: int, config: IndexConfig,
    progress: Callable[[int], None],
) -> Assembled:  # fmt: skip
    """Builds the index of a catalog over its packs and puts it into the store, files before manifest."""
    live = load_live(cache, catalog.documents)
    gathered = gather(cache, packs, wanted_ids(cache, catalog, np.unique(live.versions)))
    work = cache.scratch("index", secrets.token_hex(8))
    try:
        source = VectorSource(gathered.batches, len(gathered.ids), dimensions)
        built = build_index(source, config.target_recall, config.memory, work, progress=progress)
        documents = live.read(cache, ["document_id", "metadata"])
        written = write_places(work, gathered.ids, documents, places(cache, catalog, live))
        files = _put(store, {**built.files, **written.files})
    finally:
        shutil.rmtree(work, ignore_errors=True)
    manifest = IndexManifest(
        kind=built.kind,
        rows=built.rows,
        dimensions=dimensions,
        metric=built.metric,
        recall_at_10=built.recall_at_10,
        bytes=built.bytes,
        parameters=built.parameters,
        files=files,
    )
    return Assembled(manifest, len(gathered.ids), written.places)


def _put(store: Store, files: Mapping[str, Path]) -> dict[str, str]:
    """Index files under their contents' names; name to key."""
    keys = {}
    for name, path in sorted(files.items()):
        keys[name] = layout.index_file(ids.file_digest(path), name)
        store.put_file(keys[name], path)
    return keys
