"""From packs and catalog to an index in the store: which rows serve, and which chunks can be found."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from embedfill import ids
from embedfill.catalog.live import load_live
from embedfill.config import IndexConfig
from embedfill.errors import SearchIndexError
from embedfill.ids import IdSet
from embedfill.index.assemble import Assembled, assemble, gather, wanted_ids
from embedfill.index.search import Searcher
from embedfill.loader.packs import PackWriter
from embedfill.records import Catalog, Hit
from embedfill.store import layout
from embedfill.store.cache import Cache
from embedfill.store.memory import MemoryStore
from tests.test_catalog_live import chunks, documents, versions

DIMENSIONS = 8


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", MemoryStore())


def vector(text: str, salt: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng([*text.encode(), salt]).normal(size=DIMENSIONS).astype(np.float32)


def pack(cache: Cache, texts: list[str], salt: int = 0, dimensions: int = DIMENSIONS) -> str:
    path = cache.scratch("test") / "pack.parquet"
    with PackWriter(path, dimensions) as writer:
        for text in texts:
            writer.add(ids.array([ids.text_id(text)]), vector(text, salt)[None, :dimensions])
    key = layout.pack("space", ids.file_digest(path))
    cache.store.put_file(key, path)
    path.unlink()
    return key


def catalog(cache: Cache) -> Catalog:
    """Documents a and c hold "one" and "two", b holds "three"; d is gone."""
    table = documents(cache, [("a", "1", "p"), ("b", "2", "p"), ("c", "1", "p"), ("d", None, "p")])
    chunk = chunks(cache, [("1", 0, "one"), ("1", 1, "two"), ("2", 0, "three"), ("3", 0, "gone")])
    return Catalog("c", "s", (table,), (chunk,), None, 0, 3, 4, 0)


def build(cache: Cache, held: Catalog, packs: list[str]) -> Assembled:
    return assemble(cache.store, cache, held, packs, DIMENSIONS, IndexConfig(), lambda rows: None)


def search(cache: Cache, built: Assembled, query: NDArray[np.float32], k: int = 10) -> list[Hit]:
    files = {name: cache.path(key) for name, key in built.manifest.files.items()}
    return Searcher.open(built.manifest, files).search(query[None, :], k)[0]


def test_every_place_of_every_wanted_text_is_found(cache: Cache) -> None:
    built = build(cache, catalog(cache), [pack(cache, ["one", "gone"]), pack(cache, ["three", "two"])])
    assert (built.texts, built.places, built.manifest.rows) == (3, 5, 3)
    hits = search(cache, built, vector("two"))
    assert {(hit.document_id, hit.ordinal, hit.text) for hit in hits[:2]} == {("a", 1, "two"), ("c", 1, "two")}
    assert [hit.score for hit in hits[:2]] == pytest.approx([1, 1], abs=1e-5)
    assert {hit.document_id for hit in hits} == {"a", "b", "c"} and len(hits) == 5
    assert hits[0].metadata == {"of": "1"}


def test_of_a_text_in_several_packs_the_first_serves(cache: Cache) -> None:
    first, second = pack(cache, ["one", "two", "three"]), pack(cache, ["one", "two", "three"], salt=1)
    for packs, salt in (([first, second], 0), ([second, first], 1)):
        built = build(cache, catalog(cache), packs)
        assert built.manifest.rows == 3
        assert search(cache, built, vector("three", salt), 1)[0].score == pytest.approx(1, abs=1e-5)


def test_a_text_twice_in_one_pack_counts_once(cache: Cache) -> None:
    gathered = gather(cache, [pack(cache, ["one", "two", "one"])], IdSet(ids.array([ids.text_id("one")])))
    assert ids.tolist(gathered.ids) == [ids.text_id("one")]
    assert [len(rows) for rows, _ in gathered.batches()] == [1]


def test_rows_come_in_pack_order_and_can_be_read_twice(cache: Cache) -> None:
    texts = [f"text {number}" for number in range(3_000)]
    packs = [pack(cache, texts[1_500:]), pack(cache, texts[:2_000])]
    gathered = gather(cache, packs, IdSet(ids.array(ids.text_id(text) for text in texts[::2])))
    expected = [ids.text_id(text) for text in [*texts[1_500::2], *texts[:1_500:2]]]
    assert ids.tolist(gathered.ids) == expected
    for _ in range(2):
        batches = list(gathered.batches())
        assert [one for names, _ in batches for one in ids.tolist(names)] == expected
        rows = np.concatenate([vectors for _, vectors in batches])
        assert (rows[0] == vector(texts[1_500])).all() and (rows[-1] == vector(texts[1_498])).all()


def test_a_chunk_whose_text_has_no_vector_is_left_out(cache: Cache) -> None:
    built = build(cache, catalog(cache), [pack(cache, ["one"])])
    assert (built.texts, built.places) == (1, 2)
    assert {hit.text for hit in search(cache, built, vector("two"))} == {"one"}


def test_nothing_at_all_is_an_index_without_rows(cache: Cache) -> None:
    built = build(cache, catalog(cache), [])
    assert (built.texts, built.places, search(cache, built, vector("one"))) == (0, 0, [])


def test_wanted_are_the_texts_of_live_versions(cache: Cache) -> None:
    held = catalog(cache)
    live = load_live(cache, held.documents)
    wanted = wanted_ids(cache, held, np.unique(live.versions))
    assert ids.tolist(wanted.sorted()) == sorted(ids.text_id(text) for text in ("one", "two", "three"))
    assert len(wanted_ids(cache, held, versions("9"))) == 0


def test_files_are_named_by_content_so_that_the_same_again_adds_nothing(cache: Cache) -> None:
    held, packs = catalog(cache), [pack(cache, ["one", "two", "three"])]
    built = build(cache, held, packs)
    stored = [entry.key for entry in cache.store.list("")]
    assert build(cache, held, packs) == built
    assert [entry.key for entry in cache.store.list("")] == stored
    for name, key in built.manifest.files.items():
        assert key == layout.index_file(ids.file_digest(cache.path(key)), name)


def test_nothing_is_left_in_the_scratch_folder_whatever_happens(cache: Cache) -> None:
    held = catalog(cache)
    build(cache, held, [pack(cache, ["one"])])
    with pytest.raises(SearchIndexError):
        build(cache, held, [pack(cache, ["one"], dimensions=4)])
    assert [path for path in (cache.root / "scratch").rglob("*") if path.is_file()] == []


def test_packs_are_read_as_they_are(cache: Cache) -> None:
    assert pq.read_table(cache.path(pack(cache, ["one"]))).num_columns == 2
