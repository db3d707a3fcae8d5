"""Retrieving: queries are embedded as the index was, in any number, and what does not fit is said."""

import pytest

from embedfill.errors import UsageError
from embedfill.models.load import load as load_model
from embedfill.records import Hit
from embedfill.retrieve import Retriever
from tests.chain_fixtures import Chain, documents, sentence
from tests.engine_fixtures import EngineProcess


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """For tests that change its configuration at most."""
    chain = Chain(tmp_path_factory.mktemp("indexed")).write(documents(range(80)))
    chain.run()
    return chain


def names(hits: list[Hit]) -> list[str]:
    return [hit.document_id for hit in hits]


def test_many_queries_are_as_many_single_ones(indexed: Chain) -> None:
    retriever = Retriever.open(indexed.config())
    queries = [sentence(number % 80) for number in range(150)]
    together = retriever.search_many(queries, 3)
    assert [names(hits)[0] for hits in together] == [f"doc-{number % 80}" for number in range(150)]
    assert names(together[149]) == names(retriever.search(queries[149], 3))
    assert retriever.search_many([], 3) == []


def test_by_document_gives_each_its_best_chunk(chain: Chain) -> None:
    long = " ".join(sentence(number) for number in range(40))
    rows = [{"id": "long", "title": "t", "text": long}, *documents(range(100, 110))]
    chain.write(rows).run(chunking={"max_tokens": 32})
    retriever = Retriever.open(chain.config(chunking={"max_tokens": 32}))
    assert names(retriever.search(sentence(3), 5)).count("long") > 1
    (hits,) = retriever.search_many([sentence(3)], 5, by_document=True)
    assert names(hits).count("long") == 1 and len(hits) == 5


def test_queries_are_embedded_with_the_indexs_own_model_and_template(indexed: Chain) -> None:
    """The configuration has moved on; nothing was run yet."""
    config = indexed.config(embedding={"model": "all-MiniLM-L6-v2", "query_template": "search for: {query}"})
    retriever = Retriever.open(config)
    assert retriever.embed(["x"]).shape == (1, 256)
    best = retriever.search(sentence(5), 1)[0]
    assert best.document_id == "doc-5" and best.score == pytest.approx(1.0, abs=1e-3)


def test_shorter_vectors_are_asked_for_again(chain: Chain) -> None:
    chain.write(documents(range(20))).run(embedding={"model": "wordllama-256", "dimensions": 64})
    retriever = Retriever.open(chain.config(embedding={"model": "wordllama-256", "dimensions": 64}))
    assert retriever.embed(["x", "y"]).shape == (2, 64)
    assert retriever.search(sentence(7), 1)[0].score == pytest.approx(1.0, abs=1e-3)


def test_a_query_template_takes_part(chain: Chain) -> None:
    rows = documents(range(20))
    config = {"model": "wordllama-256", "query_template": "The library {query}"}
    chain.write(rows).run(embedding=config)
    retriever = Retriever.open(chain.config(embedding=config))
    assert retriever.embed(["paints"]).tobytes() == load_model("wordllama-256").embed(["The library paints"]).tobytes()
    assert retriever.search(sentence(4).removeprefix("The library "), 1)[0].document_id == "doc-4"


@pytest.mark.parametrize("query", ["", "   ", "\n"])
def test_an_empty_query_is_refused(indexed: Chain, query: str) -> None:
    with pytest.raises(UsageError, match="empty"):
        Retriever.open(indexed.config()).search(query)


def test_lone_surrogates_are_replaced(indexed: Chain) -> None:
    retriever = Retriever.open(indexed.config())
    assert retriever.embed(["a \ud83d b"]).tobytes() == retriever.embed(["a \ufffd b"]).tobytes()
    assert retriever.embed(["a \U0001f600 b"]).tobytes() != retriever.embed(["a \ufffd b"]).tobytes()


def test_nothing_published_and_no_store(chain: Chain) -> None:
    with pytest.raises(UsageError, match="no store"):
        Retriever.open(chain.config())
    chain.write(documents(range(3))).run_and_die("after-plan")
    with pytest.raises(UsageError, match="nothing is published"):
        Retriever.open(chain.config())


def test_another_provider_than_the_indexs_is_refused(indexed: Chain) -> None:
    server = {"provider": "generic", "base_url": "http://127.0.0.1:9/v1"}
    with pytest.raises(UsageError, match=r"embedded by local at local.*generic at http://127\.0\.0\.1:9"):
        Retriever.open(indexed.config(embedding=server))


def test_a_server_embeds_the_queries_at_the_indexs_dimensions(chain: Chain, engine: EngineProcess) -> None:
    """Whatever dimensions and model the configuration names by now."""
    server = {"provider": "generic", "base_url": engine.url, "model": "wordllama-256"}
    chain.write(documents(range(20))).run(embedding={**server, "dimensions": 64})
    for moved in ({"dimensions": 64}, {"dimensions": 256}, {"model": "other", "dimensions": 9}):
        retriever = Retriever.open(chain.config(embedding={**server, **moved}))
        assert retriever.search(sentence(7), 1)[0].document_id == "doc-7"
