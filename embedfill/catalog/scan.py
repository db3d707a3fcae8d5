"""The corpus to its catalog: reads the parts that changed, chunks the documents that are new, writes what differs.

An unchanged part, known by its fingerprint from an earlier scan on this machine, is not read; an unchanged document,
known by its version from the chunk tables, is not chunked; an unchanged row is not written again.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from embedfill import ids
from embedfill.catalog.live import KeyIndex, Live, chunk_versions, corpus_rejections, load_live
from embedfill.catalog.tables import DOCUMENT_SCHEMA, TableWriter, load, save, write_bytes
from embedfill.chunker.policy import TRUNCATED, Policy
from embedfill.chunker.tables import CHUNK_SCHEMA, TEMPLATE_TOO_LONG, ChunkedBatch, chunk_documents, document_version
from embedfill.config import Config
from embedfill.corpus.parquet import Rows, count_rows, read_part
from embedfill.corpus.parts import Part, fingerprint, list_parts, trusted
from embedfill.corpus.spec import CorpusSpec
from embedfill.errors import MissingError
from embedfill.ids import IdArray, IdSet
from embedfill.progress import Progress
from embedfill.records import Catalog, ChunkSpec, Document, Rejection
from embedfill.store import layout
from embedfill.store.base import Store
from embedfill.store.cache import Cache

Mapper = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]
_MERGE_SHARE = 4  # changes are merged into whole tables once they exceed a quarter of them


@dataclass(slots=True)
class Scanner:
    """Scans one corpus under one chunking configuration. `mapper` is an executor's map. `last` names the catalog to
    compare with where this machine's cache knows none, so that equal corpora have one catalog everywhere. `anew`: with none at
    all, since parts of what is known are gone."""

    config: Config
    corpus: CorpusSpec
    chunking: ChunkSpec
    store: Store
    cache: Cache
    mapper: Mapper
    progress: Progress
    last: str = ""
    anew: bool = False

    def run(self) -> tuple[str, Catalog]:
        """The catalog of the corpus as it is now, and its name. Raises CorpusError, and then nothing counts."""
        scanned_at = time.time()
        parts = list_parts(self.config)
        prints = {part.name: fingerprint(part) for part in parts}
        name, base, known = self._recall()
        unchanged = {part for part in prints if known.get(part) == prints[part]}
        if base is not None and name and len(unchanged) == len(parts) == len(known):
            return name, base
        unchanged -= set(base.conflicted) if base else set()
        catalog = self._scan(parts, unchanged, base)
        name = save(self.store, catalog)
        sure = {part: value for part, value in prints.items() if trusted(value, scanned_at)}
        self.cache.remember(self._fact(), {"catalog": name, "parts": sure})
        return name, catalog

    def _fact(self) -> str:
        place = os.fsencode(self.config.base)
        return "corpus-" + ids.digest_hex("fact", place, self.corpus.id.encode(), self.chunking.id.encode())

    def _recall(self) -> tuple[str, Catalog | None, dict[str, Any]]:
        """The last catalog that this machine made under this configuration, and the fingerprints it was made from."""
        if self.anew:
            return "", None, {}
        fact = self.cache.recall(self._fact()) or {"catalog": self.last, "parts": {}}
        try:
            name, base, parts = fact["catalog"], load(self.cache, fact["catalog"]), fact["parts"]
        except (MissingError, KeyError, TypeError):
            return "", None, {}
        same = (base.corpus_spec, base.chunk_spec) == (self.corpus.id, self.chunking.id)
        return (name, base, parts) if same else ("", None, {})

    def _scan(self, parts: list[Part], unchanged: set[str], base: Catalog | None) -> Catalog:
        scan = _Scan(self, parts, unchanged, base)
        catalog = scan.run()
        if scan.stale:
            # A part that was not read holds an id that an earlier, changed one now has: read it, to say which row.
            return self._scan(parts, unchanged - scan.stale, base)
        assert catalog is not None
        return catalog


@dataclass(slots=True)
class _Accepted:
    """Documents of one batch whose ids are free, and which of them have to be chunked. `cut` are records of those that
    were cut short, by document id."""

    documents: list[Document]
    keys: list[bytes]
    versions: list[bytes]
    new: list[Document]
    cut: dict[str, Rejection]


@dataclass(slots=True)
class _Scan:
    """One pass over the parts that are to be read."""

    scanner: Scanner
    parts: list[Part]
    unchanged: set[str]
    base: Catalog | None
    stale: set[str] = field(default_factory=set)
    conflicted: set[str] = field(default_factory=set)
    rejections: list[Rejection] = field(default_factory=list)
    rejected_versions: dict[bytes, Rejection] = field(default_factory=dict)
    seen: IdSet = field(default_factory=IdSet)  # ids met in the parts read
    kept: IdSet = field(default_factory=IdSet)  # those of accepted documents
    live: Live = field(init=False)
    order: dict[str, int] = field(init=False)
    chunked: IdSet = field(init=False)
    policy: Policy = field(init=False)
    tables: dict[str, IdArray] = field(init=False)
    known: KeyIndex = field(init=False)
    standing: list[bytes] = field(init=False)  # rejections of the parts that are not read, as lines
    held: dict[str, str] = field(init=False)  # ids of documents among them that were rejected for their length: part

    def run(self) -> Catalog | None:
        scanner = self.scanner
        self.policy = Policy(scanner.chunking)
        self.live = load_live(scanner.cache, self.base.documents if self.base else ())
        self.order = {part.name: number for number, part in enumerate(self.parts)}
        self.known = KeyIndex(self.live.keys)
        self._recall_rejections()
        self.tables = self._chunk_tables()
        self.chunked = IdSet(np.concatenate([ids.array([]), *self.tables.values()]))
        prefix = partial(layout.chunks, scanner.chunking.id)
        with (
            TableWriter(scanner.store, scanner.cache, DOCUMENT_SCHEMA, layout.documents) as documents,
            TableWriter(scanner.store, scanner.cache, CHUNK_SCHEMA, prefix) as chunks,
        ):
            self._read(documents, chunks)
            documents.add(self._gone())
        if self.stale:
            return None
        self.tables |= {key: chunk_versions(scanner.cache, key) for key in chunks.keys}
        return self._catalog(documents)

    def _recall_rejections(self) -> None:
        lines = corpus_rejections(self.scanner.cache, self.base).splitlines() if self.base else []
        found = [(line, orjson.loads(line)) for line in lines]
        unread = [(line, value) for line, value in found if value["source"]["file"] in self.unchanged]
        self.standing = [line for line, _ in unread]
        long = [value for _, value in unread if value["code"] == TEMPLATE_TOO_LONG]
        self.held = {value["document_id"]: value["source"]["file"] for value in long}

    def _chunk_tables(self) -> dict[str, IdArray]:
        """Versions in every chunk table of this chunking: those of the last catalog first."""
        keys = [entry.key for entry in self.scanner.store.list(layout.chunks(self.scanner.chunking.id))]
        first = [key for key in (self.base.chunks if self.base else ()) if key in keys]
        return {key: chunk_versions(self.scanner.cache, key) for key in dict.fromkeys([*first, *keys])}

    def _read(self, documents: TableWriter, chunks: TableWriter) -> None:
        changed = [part for part in self.parts if part.name not in self.unchanged]
        total = sum(count_rows(part) for part in changed)
        with self.scanner.progress.stage("read and chunk", total, "documents") as stage:
            for part, accepted, chunked in self._pipeline(changed):
                chunks.add(chunked.rows)
                documents.add(self._document_rows(part, accepted, chunked))
                stage.advance(len(accepted.documents))

    def _pipeline(self, parts: list[Part]) -> Iterator[tuple[Part, _Accepted, ChunkedBatch]]:
        waiting: deque[tuple[Part, _Accepted]] = deque()

        def items() -> Iterator[list[Document]]:
            for part in parts:
                for rows in read_part(part, self.scanner.corpus):
                    accepted = self._accept(part, rows)
                    waiting.append((part, accepted))
                    yield accepted.new

        for chunked in self.scanner.mapper(partial(chunk_documents, spec=self.scanner.chunking), items()):
            yield *waiting.popleft(), chunked

    def _accept(self, part: Part, rows: Rows) -> _Accepted:
        """Of two documents with one id, the first in file order stays."""
        candidates, refused = self.policy.screen(rows.documents)
        self.rejections += rows.rejections + refused
        keys = ids.array(ids.digest("document_id", document.id.encode()) for document in candidates)
        free = self._free(part, keys) & self._not_held(part, candidates) & self.seen.add(keys)
        for document in (document for document, one in zip(candidates, free, strict=True) if not one):
            self.conflicted.add(part.name)
            message = f"document id {document.id!r} stands earlier in the corpus: the first one stays"
            self.rejections.append(Rejection("duplicate_id", message, document.id, document.source))
        fitted = [self.policy.fit(document) for document, one in zip(candidates, free, strict=True) if one]
        documents = [document for document, _ in fitted]
        versions = [document_version(document, self.scanner.chunking) for document in documents]
        new = self.chunked.add(ids.array(versions))
        return _Accepted(
            documents, ids.tolist(keys[free]), versions, [documents[at] for at in np.flatnonzero(new)],
            {document.id: record for document, record in fitted if record is not None},
        )  # fmt: skip

    def _free(self, part: Part, keys: IdArray) -> NDArray[np.bool_]:
        """False where a part that is not read holds the id and comes earlier; one that comes later is stale."""
        if not len(self.live):
            return np.ones(len(keys), bool)
        at, found = self.known.find(keys)
        holder = self.live.part_codes[at]
        unread = np.array([name in self.unchanged for name in self.live.parts])
        earlier = np.array([self.order.get(name, -1) < self.order[part.name] for name in self.live.parts])
        held = found & unread[holder]
        self.stale |= {self.live.parts[code] for code in np.unique(holder[held & ~earlier[holder]])}
        free: NDArray[np.bool_] = ~(held & earlier[holder])
        return free

    def _not_held(self, part: Part, documents: list[Document]) -> NDArray[np.bool_]:
        """As `_free`, of the ids of documents that are in no table, for they were rejected."""
        holders = [self.held.get(document.id) for document in documents]
        earlier = [holder is not None and self.order[holder] < self.order[part.name] for holder in holders]
        self.stale |= {holder for holder, before in zip(holders, earlier, strict=True) if holder and not before}
        return ~np.array(earlier, bool)

    def _document_rows(self, part: Part, accepted: _Accepted, chunked: ChunkedBatch) -> Any:  # noqa: ANN401
        """Rows of the accepted documents that differ from what the last catalog says. A document that cannot be
        chunked is rejected, and so is every other one of the same version."""
        refused = {rejection.document_id: rejection for rejection in chunked.rejections}
        rows = []
        for document, key, version in zip(accepted.documents, accepted.keys, accepted.versions, strict=True):
            if document.id in refused:
                self.rejected_versions[version] = refused[document.id]
            if version in self.rejected_versions:
                why = self.rejected_versions[version]
                self.rejections.append(Rejection(why.code, why.message, document.id, document.source))
                continue
            if document.id in accepted.cut:
                self.rejections.append(accepted.cut[document.id])
            metadata = orjson.dumps(document.metadata)
            digest = ids.digest("row", version, part.name.encode(), metadata)
            rows.append((key, document.id, version, part.name, metadata.decode(), digest))
        self.kept.add(ids.array(row[0] for row in rows))
        return self._differing(_record_batch(rows))

    def _differing(self, batch: Any) -> Any:  # noqa: ANN401
        if not len(self.live) or not batch.num_rows:
            return batch
        at, found = self.known.find(ids.from_arrow(batch.column("key")))
        same = found & (self.live.digests[at] == ids.from_arrow(batch.column("digest")))
        return batch.filter(pa.array(~same))

    def _gone(self) -> Any:  # noqa: ANN401
        """A row without a version for each document that was in the parts read, or in a part that is gone."""
        gone = self.live.select(~self.live.in_parts(sorted(self.unchanged)))
        gone = gone.select(~self.kept.has(gone.keys))
        keys = ids.tolist(gone.keys)
        return _record_batch([(key, "", None, "", "{}", ids.digest("row", key)) for key in keys])

    def _catalog(self, documents: TableWriter) -> Catalog:
        scanner, base = self.scanner, self.base
        tables = [*(base.documents if base else ()), *documents.keys]
        live = load_live(scanner.cache, tables)
        base_rows = base.base_rows if base else documents.rows
        delta_rows = base.delta_rows + documents.rows if base else 0
        if delta_rows * _MERGE_SHARE > base_rows:
            tables = self._merged(live)
            live = load_live(scanner.cache, tables)
            base_rows, delta_rows = len(live), 0
        kept, rejected = self._all_rejections()
        return Catalog(
            corpus_spec=scanner.corpus.id,
            chunk_spec=scanner.chunking.id,
            documents=tuple(tables),
            chunks=tuple(self._serving(np.unique(live.versions))),
            rejections=kept,
            rejected=rejected,
            count=len(live),
            base_rows=base_rows,
            delta_rows=delta_rows,
            conflicted=tuple(sorted(self.conflicted)),
        )

    def _merged(self, live: Live) -> list[str]:
        scanner = self.scanner
        with TableWriter(scanner.store, scanner.cache, DOCUMENT_SCHEMA, layout.documents) as writer:
            for batch in live.read(scanner.cache, DOCUMENT_SCHEMA.names):
                writer.add(pa.record_batch(batch.columns, schema=DOCUMENT_SCHEMA))
        return writer.keys

    def _serving(self, versions: IdArray) -> Iterator[str]:
        """The chunk tables that are needed: each serves a live version that none before it has."""
        served = IdSet()
        for key, held in self.tables.items():
            if served.add(held[ids.find(versions, held)[1]]).any():
                yield key

    def _all_rejections(self) -> tuple[str | None, int]:
        """This scan's rejections and those of the parts that were not read, as one object; its key and the number of
        those that left something out."""
        lines = [orjson.dumps(asdict(rejection)) for rejection in self.rejections]
        lines += self.standing
        if not lines:
            return None, 0
        data = b"".join(line + b"\n" for line in sorted(lines))
        key = layout.corpus_rejections(ids.digest_hex("rejections", data))
        write_bytes(self.scanner.cache, self.scanner.store, key, data)
        return key, sum(orjson.loads(line)["code"] != TRUNCATED for line in lines)


def _record_batch(rows: list[tuple[Any, ...]]) -> Any:  # noqa: ANN401
    """Document rows as tuples in the schema's order to a record batch."""
    columns = zip(*rows, strict=True) if rows else [()] * len(DOCUMENT_SCHEMA)
    arrays = [pa.array(column, kind.type) for column, kind in zip(columns, DOCUMENT_SCHEMA, strict=True)]
    return pa.record_batch(arrays, schema=DOCUMENT_SCHEMA)
