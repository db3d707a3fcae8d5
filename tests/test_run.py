"""The whole chain: corpus, shards, the engine, packs, index, publication, search; and what a second run does."""

import shutil
from collections.abc import Callable

import pytest

from embedfill.config import load
from embedfill.errors import CorpusError, SearchIndexError, StoreError
from embedfill.records import Hit
from embedfill.retrieve import Retriever
from tests.chain_fixtures import Chain, documents, sentence
from tests.s3_fixtures import S3


def search(chain: Chain, query: str, k: int = 5) -> list[Hit]:
    return Retriever.open(load(chain.config_path)).search(query, k)


def ids_of(hits: list[Hit]) -> list[str]:
    return [hit.document_id for hit in hits]


def test_a_run_publishes_what_a_search_finds(chain: Chain) -> None:
    summary = chain.write(documents(range(250))).run()
    assert (summary.documents, summary.chunks, summary.texts, summary.rejected) == (250, 250, 250, 0)
    assert (summary.embedded, summary.reused, summary.batches, summary.cost_usd) == (250, 0, 3, 0.0)
    assert summary.prompt_tokens > 250
    assert summary.index["kind"] == "Flat" and summary.index["rows"] == 250 and summary.index["recall_at_10"] == 1.0
    for number in (0, 17, 249):
        best = search(chain, sentence(number))[0]
        assert best.document_id == f"doc-{number}"
        assert best.score == pytest.approx(1.0, abs=1e-3)
        assert best.text == sentence(number)[best.start : best.end]
        assert best.metadata == {"title": f"Title {number}"}


def test_a_second_run_submits_nothing(chain: Chain) -> None:
    first = chain.write(documents(range(30))).run()
    second = chain.run()
    assert (second.embedded, second.reused, second.batches, second.prompt_tokens) == (0, 30, 0, 0)
    assert second.snapshot == first.snapshot
    assert len(chain.submitted()) == 1


def test_only_what_changed_is_embedded_and_what_is_gone_is_never_a_hit(chain: Chain) -> None:
    chain.write(documents(range(120))).run()
    changed = [{"id": "new", "title": "New", "text": "A zeppelin lands on the museum roof."}]
    changed += [row for row in documents(range(120)) if row["id"] != "doc-50"]
    changed[11]["text"] = "A submarine surfaces beside the lighthouse."
    assert changed[11]["id"] == "doc-10"
    summary = chain.write(changed).run()
    assert (summary.documents, summary.texts) == (120, 120)
    assert (summary.embedded, summary.reused, summary.batches) == (2, 118, 1)
    assert ids_of(search(chain, "A zeppelin lands on the museum roof."))[0] == "new"
    assert ids_of(search(chain, "A submarine surfaces beside the lighthouse."))[0] == "doc-10"
    assert "doc-50" not in ids_of(search(chain, sentence(50), k=120))
    assert ids_of(search(chain, sentence(51)))[0] == "doc-51"


def test_metadata_alone_costs_nothing_and_reaches_the_hits(chain: Chain) -> None:
    chain.write(documents(range(20))).run()
    rows = documents(range(20))
    rows[3]["title"] = "Renamed"
    summary = chain.write(rows).run()
    assert summary.embedded == 0
    assert search(chain, sentence(3))[0].metadata == {"title": "Renamed"}


def test_equal_texts_share_a_vector_and_keep_their_places(chain: Chain) -> None:
    rows = [{"id": n, "title": f"T{n}", "text": "The same words in every document."} for n in range(7)]
    summary = chain.write(rows).run()
    assert (summary.documents, summary.chunks, summary.texts, summary.embedded) == (7, 7, 1, 1)
    assert sorted(ids_of(search(chain, "The same words", k=10))) == [str(n) for n in range(7)]


def test_bad_rows_are_rejections_and_nothing_else_is_lost(chain: Chain) -> None:
    rows = documents(range(10))
    rows[2]["text"] = None
    rows[4]["text"] = "   "
    rows[6]["id"] = None
    rows[8]["id"] = "doc-0"
    summary = chain.write(rows).run()
    assert (summary.documents, summary.rejected) == (6, 4)
    again = chain.run()
    assert (again.rejected, again.batches) == (4, 0)


def test_a_duplicate_takes_its_place_once_the_first_is_gone(chain: Chain) -> None:
    chain.write([{"id": "x", "title": "first", "text": "The first file has it."}], "a.parquet")
    chain.write([{"id": "x", "title": "second", "text": "The second file has it too."}], "b.parquet")
    assert chain.run().rejected == 1
    assert search(chain, "which file")[0].metadata == {"title": "first"}
    chain.write([{"id": "y", "title": "other", "text": "Something else altogether."}], "a.parquet")
    summary = chain.run()
    assert (summary.documents, summary.rejected) == (2, 0)
    assert {hit.metadata["title"] for hit in search(chain, "which file")} == {"other", "second"}


def test_an_id_that_appears_in_an_earlier_file_takes_it_from_an_unread_later_one(chain: Chain) -> None:
    chain.write([{"id": "y", "title": "other", "text": "Something else altogether."}], "a.parquet")
    chain.write([{"id": "x", "title": "second", "text": "The second file has it too."}], "b.parquet")
    assert chain.run().rejected == 0
    chain.write([{"id": "x", "title": "first", "text": "The first file has it."}], "a.parquet")
    summary = chain.run()
    assert (summary.documents, summary.rejected) == (1, 1)
    assert search(chain, "which file")[0].metadata == {"title": "first"}


def test_many_changes_are_merged_and_a_removed_file_is_forgotten(chain: Chain) -> None:
    chain.write(documents(range(40)), "a.parquet").write(documents(range(40, 80)), "b.parquet").run()
    (chain.folder / "corpus" / "b.parquet").unlink()
    for round_ in range(3):
        rows = documents(range(40))
        rows[round_]["text"] = f"Changed in round {round_}, about volcanoes."
        summary = chain.write(rows, "a.parquet").run()
        assert (summary.documents, summary.embedded) == (40, 1)
    assert not {f"doc-{n}" for n in range(40, 80)} & set(ids_of(search(chain, sentence(60), k=80)))


def test_a_missing_column_publishes_nothing(chain: Chain) -> None:
    chain.write([{"id": 1, "body": "No such column as text."}])
    with pytest.raises(CorpusError, match=r"corpus\.parquet.*text"):
        chain.run()


@pytest.mark.parametrize("where", ["directory", "bucket"])
def test_the_whole_chain_on_any_store_and_without_its_cache(
    chain: Chain, where: str, request: pytest.FixtureRequest
) -> None:
    if where == "bucket":
        s3: S3 = request.getfixturevalue("s3_server")
        chain.store = s3.url
    rows = documents(range(130))
    first = chain.write(rows).run()
    kept = search(chain, sentence(7))
    shutil.rmtree(chain.folder / "cache")
    second = chain.run()
    assert (second.batches, second.snapshot) == (0, first.snapshot)
    rows[7]["text"] = "An owl reads the timetable."
    shutil.rmtree(chain.folder / "cache")
    third = chain.write(rows).run()
    assert (third.embedded, third.texts) == (1, 130)
    shutil.rmtree(chain.folder / "cache")
    assert ids_of(search(chain, "An owl reads the timetable."))[0] == "doc-7"
    assert kept[0].document_id == "doc-7"


def test_no_wait_leaves_and_the_next_run_collects(chain: Chain) -> None:
    from embedfill.run import Options

    chain.write(documents(range(150)))
    for _ in range(100):
        summary = chain.run(Options(wait=False))
        if summary.finished:
            break
    assert summary.finished and summary.texts == 150
    assert len(chain.submitted()) == 2


def test_a_template_with_columns_embeds_them_but_the_passage_stays_itself(chain: Chain) -> None:
    chain.write(documents(range(12)))
    chain.run(embedding={"model": "wordllama-256", "template": "{title}: {text}"})
    best = search(chain, f"Title 5: {sentence(5)}")[0]
    assert (best.document_id, best.text) == ("doc-5", sentence(5))
    assert best.score == pytest.approx(1.0, abs=1e-3)


def test_a_new_model_is_a_new_space(chain: Chain, new_chain: Callable[[str], Chain]) -> None:
    chain.write(documents(range(20))).run()
    summary = chain.run(embedding={"model": "wordllama-256", "dimensions": 64})
    assert (summary.embedded, summary.reused) == (20, 0)
    back = chain.run(embedding={"model": "wordllama-256", "dimensions": 256})
    assert (back.embedded, back.reused) == (0, 20)


def test_a_damaged_index_is_built_again_from_the_vectors_that_are_there(chain: Chain) -> None:
    chain.write(documents(range(60))).run()
    victim = next((chain.folder / "store" / "index").glob("*/row_places.npy"))
    victim.write_bytes(victim.read_bytes()[:100])
    with pytest.raises(SearchIndexError):
        search(chain, sentence(3))
    summary = chain.run()
    assert (summary.batches, summary.embedded, summary.texts) == (0, 0, 60)
    assert ids_of(search(chain, sentence(3)))[0] == "doc-3"


def test_a_damaged_record_is_named(chain: Chain) -> None:
    chain.write(documents(range(5))).run()
    victim = next((chain.folder / "store" / "published").iterdir())
    victim.write_bytes(victim.read_bytes()[:10])
    with pytest.raises(StoreError, match=r"published/00000001\.json is damaged"):
        chain.run()
