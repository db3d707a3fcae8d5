"""The scan: after any edits it says what a scan from nothing would say, and reads and chunks only what changed."""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedfill import ids
from embedfill.catalog.live import corpus_rejections, load_live, places, wanted_texts
from embedfill.catalog.scan import Scanner
from embedfill.config import parse
from embedfill.corpus.spec import CorpusSpec
from embedfill.errors import CorpusError
from embedfill.progress import Stage
from embedfill.records import Catalog, ChunkSpec, Document
from embedfill.store.base import Store
from embedfill.store.cache import Cache
from embedfill.store.memory import MemoryStore

Row = dict[str, Any]
SPEC = CorpusSpec("id", ("text",), metadata=("title",), fields=("title",))
CHUNKING = ChunkSpec("cl100k_base", 12, 2, "text", "{title}: {text}", 400)
TOO_LONG = "a title that alone is longer than a chunk may be " * 2
_SCHEMA = pa.schema({"id": pa.string(), "text": pa.string(), "title": pa.string()})


@dataclass
class Counted:
    """A progress and a mapper that count: rows of the parts that are read, documents that are chunked."""

    rows: int = 0
    chunked: int = 0

    @contextmanager
    def stage(self, name: str, total: int | None, unit: str) -> Iterator[Stage]:
        self.rows += total or 0
        yield self

    def note(self, message: str) -> None:
        raise AssertionError(message)

    def advance(self, amount: int) -> None:
        pass

    def map(self, function: Callable[[Any], Any], items: Iterable[list[Document]]) -> Iterator[Any]:
        # A few ahead, as with worker processes: what is read and what is written must keep their order.
        ahead: list[Any] = []
        for item in items:
            self.chunked += len(item)
            ahead.append(function(item))
            if len(ahead) > 2:
                yield ahead.pop(0)
        yield from ahead


@dataclass
class Corpus:
    """Parquet files in a folder, written with modification times that lie in the past, so that they are trusted."""

    folder: Path
    clock: Iterator[int] = field(default_factory=lambda: itertools.count(1_600_000_000))

    def write(self, name: str, rows: Sequence[Row], group: int = 1_000) -> None:
        self.folder.mkdir(exist_ok=True)
        path = self.folder / name
        pq.write_table(pa.Table.from_pylist(list(rows), schema=_SCHEMA), path, row_group_size=group)
        self.date(name)

    def date(self, name: str) -> None:
        now = next(self.clock)
        os.utime(self.folder / name, (now, now))

    def scan(
        self, store: Store, cache: Path, counted: Counted | None = None, spec: CorpusSpec = SPEC,
        chunking: ChunkSpec = CHUNKING, last: str = "",
    ) -> tuple[str, Catalog]:  # fmt: skip
        raw = {"store": "s", "corpus": {"paths": ["corpus/*.parquet"], "text": "text"}}
        config = parse(raw, self.folder.parent, environ={})
        counted = counted or Counted()
        return Scanner(config, spec, chunking, store, Cache(cache, store), counted.map, counted, last).run()


@dataclass(frozen=True)
class Seen:
    """What a catalog says, in a form that two of them can be compared in."""

    documents: dict[str, tuple[bytes, str]]
    rejections: list[bytes]
    texts: dict[bytes, str]
    places: list[tuple[str, int, int, int, str]]


def look(store: Store, cache_root: Path, catalog: Catalog) -> Seen:
    cache = Cache(cache_root, store)
    live = load_live(cache, catalog.documents)
    held = [row for batch in live.read(cache, ["document_id", "version", "metadata"]) for row in batch.to_pylist()]
    assert catalog.count == len(live) == len(held) == len({row["document_id"] for row in held})
    rejections = sorted(corpus_rejections(cache, catalog).splitlines())
    assert catalog.rejected == len(rejections)
    texts = [row for batch in wanted_texts(cache, catalog, np.unique(live.versions)) for row in batch.to_pylist()]
    assert all(row["text_id"] == ids.text_id(row["text"]) for row in texts)
    where = [row for batch in places(cache, catalog, live) for row in batch.to_pylist()]
    names = [row["document_id"] for row in held]
    return Seen(
        {row["document_id"]: (row["version"], row["metadata"]) for row in held},
        rejections,
        {row["text_id"]: row["text"] for row in texts},
        sorted((names[one["document"]], one["ordinal"], one["start"], one["end"], one["text"]) for one in where),
    )


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return Corpus(tmp_path / "corpus")


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


# ---------------------------------------------------------------------------------------------------------------------
# Any edits, against a scan from nothing

FILES = ["a.parquet", "part-2.parquet", "part-10.parquet", "z.parquet"]
document_ids = st.sampled_from([None, "", *map(str, range(8))])
texts = st.sampled_from(
    [
        None,
        "",
        "  ",
        "one text",
        "another text",
        "a third one, a little longer than the others are",
        "word " * 60,
        "Ω漢字",
    ]
)
titles = st.sampled_from([None, "", "t", "u", TOO_LONG])
rows = st.fixed_dictionaries({"id": document_ids, "text": texts, "title": titles})
row_lists = st.lists(rows, max_size=6)
groups = st.integers(1, 5)


@dataclass
class Edit:
    """One change of the corpus: `apply` works on the model, file name to rows."""

    kind: str
    file: int
    other: int
    at: int
    row: Row
    rows: list[Row]

    def apply(self, files: dict[str, list[Row]]) -> None:
        name = sorted(files)[self.file % len(files)]
        target = FILES[self.other]
        held = files[name]
        at = self.at % max(1, len(held))
        if self.kind == "insert":
            held.insert(at, dict(self.row))
        elif self.kind == "add":
            files[target] = [dict(row) for row in self.rows]
        elif self.kind == "rename" and target not in files:
            files[target] = files.pop(name)
        elif self.kind == "remove" and len(files) > 1:
            del files[name]
        elif held:
            self._change(files, held, target, at)

    def _change(self, files: dict[str, list[Row]], held: list[Row], target: str, at: int) -> None:
        if self.kind == "move" and target in files:
            files[target].append(held.pop(at))
        elif self.kind == "delete":
            del held[at]
        elif self.kind in ("text", "title", "id"):
            held[at] = {**held[at], self.kind: self.row[self.kind]}
        elif self.kind == "again":
            held.append(dict(held[at]))
        elif self.kind == "swap":
            held[0], held[at] = held[at], held[0]


KINDS = ["insert", "add", "rename", "remove", "move", "delete", "text", "title", "id", "again", "swap", "touch"]
edits = st.builds(
    Edit, st.sampled_from(KINDS), st.integers(0, 3), st.integers(0, 3), st.integers(0, 9), rows, row_lists
)  # fmt: skip
step = st.tuples(st.lists(edits, max_size=3), groups, st.booleans(), st.booleans())


@settings(max_examples=40)
@given(first=st.dictionaries(st.sampled_from(FILES), row_lists, min_size=1), steps=st.lists(step, max_size=4))
def test_any_edits_leave_what_a_scan_from_nothing_finds(
    tmp_path_factory: pytest.TempPathFactory, first: dict[str, list[Row]], steps: list[Any]
) -> None:
    folder = tmp_path_factory.mktemp("scan")
    corpus, store = Corpus(folder / "corpus"), MemoryStore()
    files: dict[str, list[Row]] = {}
    wanted, cache, fresh_number = {name: list(rows) for name, rows in first.items()}, folder / "cache-0", 0
    name = ""
    for number, (changes, group, forget, told) in enumerate([([], 3, False, False), *steps]):
        for change in changes:
            change.apply(wanted)
        for name in [name for name in files if name not in wanted]:
            (corpus.folder / name).unlink()
        for name in [name for name in wanted if files.get(name) != wanted[name]]:
            corpus.write(name, wanted[name], group)
        files = {name: [dict(row) for row in rows] for name, rows in wanted.items()}
        if forget:
            fresh_number += 1
            cache = folder / f"cache-{fresh_number}"
        name, catalog = corpus.scan(store, cache, last=name if told else "")
        new = MemoryStore()
        expected = look(new, folder / f"new-{number}", corpus.scan(new, folder / f"new-{number}")[1])
        assert look(store, cache, catalog) == expected
        assert corpus.scan(store, cache) == (name, catalog)  # nothing changed: the same, whatever it is made of
        assert look(store, folder / "elsewhere", catalog) == expected  # and another machine sees it so


# ---------------------------------------------------------------------------------------------------------------------
# What is read, what is chunked


def simple(numbers: Iterable[int], title: str = "t") -> list[Row]:
    return [{"id": f"d{n}", "text": f"This is text {n}.", "title": title} for n in numbers]


def counted(corpus: Corpus, store: Store, cache: Path) -> tuple[int, int]:
    counts = Counted()
    corpus.scan(store, cache, counts)
    return counts.rows, counts.chunked


@pytest.fixture
def three(corpus: Corpus) -> Corpus:
    for number, name in enumerate(["a.parquet", "b.parquet", "c.parquet"]):
        corpus.write(name, simple(range(number * 10, number * 10 + 10)))
    return corpus


def test_only_changed_parts_are_read_and_only_new_documents_chunked(
    three: Corpus, store: MemoryStore, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    assert counted(three, store, cache) == (30, 30)
    assert counted(three, store, cache) == (0, 0)
    rows = simple(range(10, 20))
    rows[3]["text"] = "Something new."
    three.write("b.parquet", rows)
    assert counted(three, store, cache) == (10, 1)
    three.write("b.parquet", [rows[0], *rows])  # a duplicate
    assert counted(three, store, cache) == (11, 0)
    three.write("d.parquet", simple([40]))
    assert counted(three, store, cache) == (12, 1)  # the part with the duplicate is read again with it
    (three.folder / "a.parquet").unlink()
    assert counted(three, store, cache) == (11, 0)


def test_without_the_cache_all_is_read_and_nothing_chunked(three: Corpus, store: MemoryStore, tmp_path: Path) -> None:
    name, catalog = three.scan(store, tmp_path / "cache")
    counts = Counted()
    assert three.scan(store, tmp_path / "other", counts) == (name, catalog)
    assert (counts.rows, counts.chunked) == (30, 0)


def test_without_the_cache_the_last_catalog_stays_the_one(three: Corpus, store: MemoryStore, tmp_path: Path) -> None:
    """Written whole and then changed it has other tables than one from nothing, and says the same."""
    three.scan(store, tmp_path / "cache")
    rows = simple(range(10))
    rows[3]["text"] = "Something new."
    three.write("a.parquet", rows)
    name, catalog = three.scan(store, tmp_path / "cache")
    assert catalog.delta_rows == 1
    assert three.scan(store, tmp_path / "other", last=name) == (name, catalog)
    assert three.scan(store, tmp_path / "third")[0] != name
    wrong = replace(CHUNKING, max_tokens=13)
    assert three.scan(store, tmp_path / "fourth", None, SPEC, wrong, last=name)[1].delta_rows == 0


def test_a_touched_or_renamed_file_is_read_but_not_chunked(three: Corpus, store: MemoryStore, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    before = look(store, cache, three.scan(store, cache)[1])
    three.date("b.parquet")
    assert counted(three, store, cache) == (10, 0)
    (three.folder / "b.parquet").rename(three.folder / "k.parquet")
    assert counted(three, store, cache) == (10, 0)
    assert look(store, cache, three.scan(store, cache)[1]) == before


def test_a_file_written_just_now_is_not_trusted_yet(three: Corpus, store: MemoryStore, tmp_path: Path) -> None:
    os.utime(three.folder / "b.parquet")
    assert counted(three, store, tmp_path / "cache") == (30, 30)
    assert counted(three, store, tmp_path / "cache") == (10, 0)


def test_metadata_alone_chunks_nothing(corpus: Corpus, store: MemoryStore, tmp_path: Path) -> None:
    spec, chunking = (
        CorpusSpec("id", ("text",), metadata=("title",)),
        ChunkSpec("cl100k_base", 12, 2, "text", "{text}", 99),
    )
    corpus.write("a.parquet", simple(range(10)))
    corpus.scan(store, tmp_path / "cache", None, spec, chunking)
    corpus.write("a.parquet", simple(range(10), title="renamed"))
    counts = Counted()
    _, catalog = corpus.scan(store, tmp_path / "cache", counts, spec, chunking)
    assert (counts.rows, counts.chunked) == (10, 0)
    assert {value for _, value in look(store, tmp_path / "cache", catalog).documents.values()} == {
        '{"title":"renamed"}'
    }


def test_equal_documents_are_chunked_once_and_each_has_its_place(
    corpus: Corpus, store: MemoryStore, tmp_path: Path
) -> None:
    corpus.write("a.parquet", [{"id": str(n), "text": "the same", "title": "t"} for n in range(5)])
    counts = Counted()
    _, catalog = corpus.scan(store, tmp_path / "cache", counts)
    seen = look(store, tmp_path / "cache", catalog)
    assert (counts.chunked, len(seen.texts), len(seen.places), catalog.count) == (1, 1, 5, 5)


# ---------------------------------------------------------------------------------------------------------------------
# The tables that are written


def test_nothing_changed_writes_nothing(three: Corpus, store: MemoryStore, tmp_path: Path) -> None:
    three.scan(store, tmp_path / "cache")
    held = [entry.key for entry in store.list("")]
    three.date("a.parquet")
    three.scan(store, tmp_path / "cache")
    three.scan(store, tmp_path / "other")
    assert [entry.key for entry in store.list("")] == held


def test_changes_are_small_tables_until_they_are_a_quarter(corpus: Corpus, store: MemoryStore, tmp_path: Path) -> None:
    rows = simple(range(40))
    cache = tmp_path / "cache"
    shapes = []
    for number in range(12):
        corpus.write("a.parquet", rows)
        _, catalog = corpus.scan(store, cache)
        shapes.append((len(catalog.documents), catalog.base_rows, catalog.delta_rows))
        rows[number] = {**rows[number], "text": f"Changed {number}."}
    assert shapes[0] == (1, 40, 0)
    assert shapes[1:11] == [(number + 1, 40, number) for number in range(1, 11)]
    assert shapes[11] == (1, 40, 0)
    assert look(store, cache, catalog).documents["d39"]


def test_a_document_that_is_gone_is_a_row_until_the_merge(corpus: Corpus, store: MemoryStore, tmp_path: Path) -> None:
    corpus.write("a.parquet", simple(range(40)))
    corpus.scan(store, tmp_path / "cache")
    corpus.write("a.parquet", simple(range(38)))
    _, catalog = corpus.scan(store, tmp_path / "cache")
    assert (len(catalog.documents), catalog.delta_rows, catalog.count) == (2, 2, 38)
    corpus.write("a.parquet", simple(range(5)))
    _, catalog = corpus.scan(store, tmp_path / "cache")
    assert (len(catalog.documents), catalog.base_rows, catalog.delta_rows, catalog.count) == (1, 5, 0, 5)


def test_two_scans_that_chunk_the_same_at_once_serve_it_once(three: Corpus, tmp_path: Path) -> None:
    """Each has written a chunk table of all documents, one in other groups than the other."""
    one, other = MemoryStore(), MemoryStore()
    three.scan(one, tmp_path / "one")
    expected = look(one, tmp_path / "one", three.scan(one, tmp_path / "one")[1])
    (three.folder / "a.parquet").rename(three.folder / "x.parquet")
    three.scan(other, tmp_path / "other")
    (three.folder / "x.parquet").rename(three.folder / "a.parquet")
    for entry in other.list("chunks/"):
        one.create(entry.key, other.read(entry.key))
    assert len(list(one.list("chunks/"))) == 2
    for cache in ("one", "new"):  # with the last catalog known, and without
        _, catalog = three.scan(one, tmp_path / cache)
        assert len(catalog.chunks) == 1
        assert look(one, tmp_path / cache, catalog) == expected
    both = Catalog(**{**vars_of(catalog), "chunks": tuple(entry.key for entry in one.list("chunks/"))})
    assert look(one, tmp_path / "one", both) == expected


def vars_of(catalog: Catalog) -> dict[str, Any]:
    return {name: getattr(catalog, name) for name in Catalog.__dataclass_fields__}


def test_a_chunk_table_that_serves_nothing_any_more_is_left_out(
    corpus: Corpus, store: MemoryStore, tmp_path: Path
) -> None:
    corpus.write("a.parquet", simple(range(3)))
    first = corpus.scan(store, tmp_path / "cache")[1].chunks
    corpus.write("a.parquet", simple(range(3), title="new"))
    second = corpus.scan(store, tmp_path / "cache")[1].chunks
    assert len(first) == len(second) == 1 and first != second


# ---------------------------------------------------------------------------------------------------------------------
# Rejections


def rejections(store: Store, cache: Path, catalog: Catalog) -> list[tuple[str, str | None, str, int]]:
    found = [orjson.loads(line) for line in corpus_rejections(Cache(cache, store), catalog).splitlines()]
    return sorted((one["code"], one["document_id"], one["source"]["file"], one["source"]["row"]) for one in found)


def test_documents_that_cannot_be_chunked_are_rejected_and_so_are_equal_ones(
    corpus: Corpus, store: MemoryStore, tmp_path: Path
) -> None:
    long = {"text": "body", "title": TOO_LONG}
    corpus.write("a.parquet", [{"id": "x", **long}, {"id": "y", **long}, {"id": "ok", "text": "body", "title": "t"}])
    corpus.write("b.parquet", [{"id": "z", **long}])
    expected = [
        ("template_too_long", "x", "corpus/a.parquet", 0),
        ("template_too_long", "y", "corpus/a.parquet", 1),
        ("template_too_long", "z", "corpus/b.parquet", 0),
    ]
    for _ in range(2):
        _, catalog = corpus.scan(store, tmp_path / "cache")
        assert (catalog.count, rejections(store, tmp_path / "cache", catalog)) == (1, expected)
    corpus.write("c.parquet", [{"id": "w", **long}])
    _, catalog = corpus.scan(store, tmp_path / "cache")
    assert rejections(store, tmp_path / "cache", catalog) == [
        ("template_too_long", "w", "corpus/c.parquet", 0),
        *expected,
    ]


def test_what_is_cut_short_is_recorded_and_not_left_out(corpus: Corpus, store: MemoryStore, tmp_path: Path) -> None:
    """Also where the document is chunked already, or its part is not read again."""
    chunking = replace(CHUNKING, too_long="truncate")
    long = {"text": "body text of some more words than fit", "title": TOO_LONG}
    corpus.write("a.parquet", [{"id": "x", **long}, {"id": "y", **long}, {"id": "ok", "text": "body", "title": "t"}])
    corpus.write("b.parquet", [{"id": "x", **long}, {"id": "none", "text": None, "title": "t"}])
    expected = [
        ("duplicate_id", "x", "corpus/b.parquet", 0),
        ("null_text", "none", "corpus/b.parquet", 1),
        ("truncated", "x", "corpus/a.parquet", 0),
        ("truncated", "y", "corpus/a.parquet", 1),
    ]
    for cache in (tmp_path / "cache", tmp_path / "cache", tmp_path / "another"):
        _, catalog = corpus.scan(store, cache, chunking=chunking)
        assert (catalog.count, catalog.rejected, rejections(store, cache, catalog)) == (3, 2, expected)
    corpus.write("c.parquet", [{"id": "w", **long}])
    corpus.date("a.parquet")
    counted = Counted()
    _, catalog = corpus.scan(store, tmp_path / "cache", counted, chunking=chunking)
    assert (counted.chunked, catalog.rejected) == (0, 2)
    assert rejections(store, tmp_path / "cache", catalog) == sorted(
        [*expected, ("truncated", "w", "corpus/c.parquet", 0)]
    )


@pytest.mark.parametrize(("policy", "count"), [("text", 4), ("remove", 3), ("reject", 2)])
def test_special_tokens_follow_the_policy(
    corpus: Corpus, store: MemoryStore, tmp_path: Path, policy: str, count: int
) -> None:
    texts = ["plain", "a <|endoftext|> b", "<|endoftext|>", "plain too"]
    rows = [{"id": f"d{number}", "text": text, "title": "t"} for number, text in enumerate(texts)]
    corpus.write("a.parquet", rows)
    _, catalog = corpus.scan(store, tmp_path / "cache", chunking=replace(CHUNKING, special_tokens=policy))
    assert (catalog.count, catalog.rejected) == (count, 4 - count)
    embedded = set(look(store, tmp_path / "cache", catalog).texts.values())
    assert any("<|endoftext|>" in text for text in embedded) == (policy == "text")
    # What is rejected holds no id: a later document of that id is welcome.
    corpus.write("b.parquet", [{"id": "d2", "text": "better", "title": "t"}])
    _, catalog = corpus.scan(store, tmp_path / "cache", chunking=replace(CHUNKING, special_tokens=policy))
    assert catalog.count == (4 if policy == "text" else count + 1)


def test_of_one_id_in_three_files_the_first_stays_wherever_it_changes(
    corpus: Corpus, store: MemoryStore, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    for name in ("part-1.parquet", "part-2.parquet", "part-10.parquet"):
        corpus.write(name, [{"id": "x", "text": f"in {name}", "title": "t"}])
    _, catalog = corpus.scan(store, cache)
    assert list(look(store, cache, catalog).texts.values()) == ["t: in part-1.parquet"]
    corpus.write("part-1.parquet", simple([1]))
    _, catalog = corpus.scan(store, cache)
    assert sorted(look(store, cache, catalog).texts.values()) == ["t: This is text 1.", "t: in part-2.parquet"]
    assert rejections(store, cache, catalog) == [("duplicate_id", "x", "corpus/part-10.parquet", 0)]
    corpus.write("part-0.parquet", [{"id": "x", "text": "in part-0", "title": "t"}])
    _, catalog = corpus.scan(store, cache)
    assert sorted(look(store, cache, catalog).texts.values()) == ["t: This is text 1.", "t: in part-0"]


def test_a_rejected_first_holder_of_an_id_keeps_it_however_the_scan_came_there(
    corpus: Corpus, store: MemoryStore, tmp_path: Path
) -> None:
    corpus.write("a.parquet", [{"id": "x", "text": "body", "title": TOO_LONG}])
    corpus.write("b.parquet", [{"id": "y", "text": "body", "title": "t"}])
    corpus.scan(store, tmp_path / "cache")
    corpus.write("b.parquet", [{"id": "x", "text": "body", "title": "t"}])
    _, catalog = corpus.scan(store, tmp_path / "cache")
    _, fresh = corpus.scan(MemoryStore(), tmp_path / "fresh")
    assert (catalog.count, catalog.rejected) == (fresh.count, fresh.rejected) == (0, 2)


# ---------------------------------------------------------------------------------------------------------------------
# What can be wrong with the world


def test_a_file_that_is_no_parquet_publishes_nothing_and_is_named(
    three: Corpus, store: MemoryStore, tmp_path: Path
) -> None:
    before = three.scan(store, tmp_path / "cache")
    good = (three.folder / "b.parquet").read_bytes()
    footer = int.from_bytes(good[-8:-4], "little")
    damaged = good[: -8 - footer] + b"\xff" * footer + good[-8:]  # right at both ends, nonsense in between
    for bad in (b"", b"garbage", good[:-9], damaged):
        (three.folder / "b.parquet").write_bytes(bad)
        with pytest.raises(CorpusError, match=r"corpus/b\.parquet"):
            three.scan(store, tmp_path / "cache")
    (three.folder / "b.parquet").write_bytes(good)
    three.date("b.parquet")
    assert three.scan(store, tmp_path / "cache") == before


def test_no_file_left_is_an_error_not_an_empty_corpus(three: Corpus, store: MemoryStore, tmp_path: Path) -> None:
    three.scan(store, tmp_path / "cache")
    for path in three.folder.iterdir():
        path.unlink()
    with pytest.raises(CorpusError):
        three.scan(store, tmp_path / "cache")


def test_a_cache_of_another_store_or_of_nonsense_does_no_harm(three: Corpus, tmp_path: Path) -> None:
    first = MemoryStore()
    expected = look(first, tmp_path / "cache", three.scan(first, tmp_path / "cache")[1])
    (fact,) = (tmp_path / "cache" / "facts").iterdir()
    held = fact.read_bytes()
    for content in (held, b"{", b"[]", b'{"catalog":"00","parts":5}', b'{"catalog":5}', b""):
        store = MemoryStore()
        root = tmp_path / f"other-{len(content)}"
        (root / "facts").mkdir(parents=True)
        (root / "facts" / fact.name).write_bytes(content)
        assert look(store, root, three.scan(store, root)[1]) == expected


def test_an_empty_file_is_a_part_without_documents(corpus: Corpus, store: MemoryStore, tmp_path: Path) -> None:
    corpus.write("a.parquet", [])
    _, catalog = corpus.scan(store, tmp_path / "cache")
    assert (catalog.count, catalog.documents, catalog.chunks, catalog.rejections) == (0, (), (), None)
    corpus.write("b.parquet", simple([1]))
    assert corpus.scan(store, tmp_path / "cache")[1].count == 1
