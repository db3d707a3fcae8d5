"""What was left out and why: rows of the corpus that could not be used, and texts that a provider refused for good.

Lists and exports them, and forgives refusals, so that the texts go out again with the next run. Sends nothing itself.
"""

import csv
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass, fields
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from embedfill import ids
from embedfill.catalog.live import first_places, load_live, places
from embedfill.catalog.tables import load as load_catalog
from embedfill.config import Config
from embedfill.corpus.parts import list_parts
from embedfill.errors import CorpusError, UsageError
from embedfill.ids import IdSet
from embedfill.index.publish import current
from embedfill.project import open_project
from embedfill.records import Catalog
from embedfill.tracker.forgive import forgive
from embedfill.tracker.plan import refused_in

ALL = "all"
_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("code", "message", "document_id", "file")]
    + [("row", pa.int64()), ("text_id", pa.string())]
)
_BATCH_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class Standing:
    """One rejection. A row of the corpus has a `file` and a `row` (0-based); a refused text its `text_id`
    (hexadecimal), with the first document, and its file, that it stands in. The code `truncated` marks what was not
    left out, but cut short."""

    code: str
    message: str
    document_id: str | None
    file: str | None
    row: int | None
    text_id: str | None


class Rejections:
    """All standing rejections of a configuration's store: rows of the corpus as published last, and refused texts of
    its space. Raises UsageError where there is no store yet."""

    def __init__(self, config: Config) -> None:
        project = open_project(config, read_only=True)
        self._cache = project.cache
        self._state = project.state().refresh()
        self._refused = refused_in(self._state, config.batch.max_attempts)
        snapshot = current(project.store, project.cache).snapshot
        self._catalog: Catalog | None = load_catalog(project.cache, snapshot.catalog) if snapshot else None

    def __iter__(self) -> Iterator[Standing]:
        """Rows of the corpus first, then texts, each in a fixed order; streaming."""
        yield from self._rows()
        yield from self.texts

    def _rows(self) -> Iterator[Standing]:
        if self._catalog is None or self._catalog.rejections is None:
            return
        with self._cache.path(self._catalog.rejections).open("rb") as lines:
            for value in map(orjson.loads, lines):
                source = value["source"]
                yield Standing(
                    value["code"], value["message"], value["document_id"], source["file"], source["row"], None
                )

    @cached_property
    def texts(self) -> list[Standing]:
        """The refused texts, by text id."""
        rejected = self._refused.rejected
        held = first_places(self._cache, self._catalog, self._ids()) if self._catalog else {}
        found = []
        for text_id in sorted(rejected):
            document_id, file = held.get(text_id, (None, None))
            why = rejected[text_id]
            found.append(Standing(why.code, why.message, document_id, file, None, text_id.hex()))
        return found

    def retry(self, names: Iterable[str], codes: Iterable[str] = ()) -> int:
        """Forgives the refused texts that are named, by text id or as those of a document, or "all", or by the code of
        their rejection; they go out again with the next run. Returns how many. Raises UsageError for a name or a code
        that no refused text has."""
        chosen: set[bytes] = set()
        for name in names:
            chosen |= self._known(name, self._named(name))
        for code in codes:
            chosen |= self._known(code, {t for t, why in self._refused.rejected.items() if why.code == code})
        forgive(self._state, {text_id: self._refused.counts[text_id] for text_id in chosen})
        return len(chosen)

    def _named(self, name: str) -> set[bytes]:
        rejected = set(self._refused.rejected)
        if name == ALL:
            return rejected
        return {text_id for text_id in rejected if text_id.hex() == name} or self._of_document(name)

    def _of_document(self, document_id: str) -> set[bytes]:
        """The refused texts that a document holds."""
        if self._catalog is None or not self._refused.rejected:
            return set()
        live = load_live(self._cache, self._catalog.documents)
        key = ids.array([ids.digest("document_id", document_id.encode())])
        one = live.select(np.asarray(live.keys == key))
        sought, found = self._ids(), set[bytes]()
        for batch in places(self._cache, self._catalog, one) if len(one) else ():
            held = ids.from_arrow(batch.column("text_id"))
            found.update(ids.tolist(held[sought.has(held)]))
        return found

    def _known(self, name: str, found: set[bytes]) -> set[bytes]:
        if not found and name != ALL:
            raise UsageError(
                f"no refused text, document of one, or code is {name!r}",
                "see them with: embedfill rejections CONFIG. Rows of the corpus need no retry: mend them and run again",
            )
        return found

    def _ids(self) -> IdSet:
        return IdSet(ids.array(sorted(self._refused.rejected)))


def check_export(config: Config, path: Path, *inputs: Path) -> None:
    """Raises UsageError where an export would write over what is read: a file of the corpus, one of `inputs`, or
    anything in the store."""
    target = path.resolve()
    with suppress(CorpusError):  # what is not there cannot be written over
        inputs += tuple(part.path for part in list_parts(config))
    if target in {one.resolve() for one in inputs}:
        raise UsageError(f"{path}: the export would write over an input", "name another file")
    if "://" not in config.store and target.is_relative_to(config.store_url):
        raise UsageError(f"{path}: lies in the store", "name a file outside of it")


def export(rejections: Iterable[Standing], path: Path) -> int:
    """Writes rejections to a .parquet, .jsonl or .csv file, streaming; it appears when it is whole. Returns how many.

    Raises UsageError for another ending, or a place that cannot be written to.
    """
    write = _WRITERS.get(path.suffix)
    if write is None:
        raise UsageError(f"{path}: cannot export to this", f"name a file that ends in {', '.join(_WRITERS)}")
    temp = path.with_name(path.name + ".part")
    try:
        rows = write(rejections, temp)
        temp.replace(path)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}", "name a file that can be written") from None
    finally:
        temp.unlink(missing_ok=True)
    return rows


def _write_parquet(rejections: Iterable[Standing], path: Path) -> int:
    rows, rest = 0, iter(rejections)
    with pq.ParquetWriter(path, _SCHEMA, compression="zstd") as writer:
        while part := list(islice(rest, _BATCH_ROWS)):
            writer.write_table(pa.Table.from_pylist([asdict(one) for one in part], _SCHEMA))
            rows += len(part)
    return rows


def _write_jsonl(rejections: Iterable[Standing], path: Path) -> int:
    rows = 0
    with path.open("wb") as file:
        for one in rejections:
            file.write(orjson.dumps(one, option=orjson.OPT_APPEND_NEWLINE))
            rows += 1
    return rows


def _write_csv(rejections: Iterable[Standing], path: Path) -> int:
    rows = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([field.name for field in fields(Standing)])
        for one in rejections:
            writer.writerow(astuple(one))
            rows += 1
    return rows


_WRITERS: dict[str, Callable[[Iterable[Standing], Path], int]] = {
    ".parquet": _write_parquet,
    ".jsonl": _write_jsonl,
    ".csv": _write_csv,
}
