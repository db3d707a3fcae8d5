"""Where a store stands: read off its objects, refused texts with their words, and money that is not known."""

from dataclasses import asdict
from typing import Any

import pytest

from embedfill import ids
from embedfill.errors import UsageError
from embedfill.project import open_project
from embedfill.records import Outcome, Refusal
from embedfill.status import rejections, standing
from embedfill.store import layout
from tests.chain_fixtures import Chain, documents, sentence

TEXT = ids.text_id("refused").hex()


def settle(chain: Chain, number: int, refusals: list[Refusal], **changed: Any) -> None:
    """Adds an outcome as a provider's batch would leave it."""
    project = open_project(chain.config())
    data = ids.canonical({"refusals": [asdict(one) for one in refusals], "odd_lines": []})
    key = layout.refusals(project.space.id, ids.digest_hex("refusals", data))
    project.store.create(key, data)
    values: dict[str, Any] = {
        "shard": ids.digest_hex("shard", str(number).encode()), "attempt": 1, "batch_id": f"b{number}",
        "status": "completed", "texts": 5, "vectors": 0, "refused": len(refusals), "prompt_tokens": 0, "cost_usd": 0.0,
        "packs": (), "refusals": key if refusals else None,
    }  # fmt: skip
    outcome = Outcome(**{**values, **changed})
    key = layout.outcome(project.space.id, outcome.shard, outcome.attempt)
    project.store.create(key, ids.canonical(asdict(outcome)))


def test_a_store_without_anything_published(chain: Chain) -> None:
    open_project(chain.config())
    found = standing(chain.config())
    assert (found.snapshot, found.published, found.index, found.shards, found.batches) == ("", 0, {}, {}, 0)
    assert (found.cost_usd, found.model) == (0.0, "wordllama-256")
    assert rejections(chain.config()) == []


def test_no_store_at_all(chain: Chain) -> None:
    for look in (standing, rejections):
        with pytest.raises(UsageError, match="no store"):
            look(chain.config())
    assert not (chain.folder / "store").exists()


def test_a_text_that_was_refused_often_enough_is_listed_with_the_providers_words(chain: Chain) -> None:
    chain.write([*documents(range(3)), {"id": "doc-0", "title": "t", "text": "again"}]).run()
    for number in range(3):
        settle(chain, number, [Refusal(TEXT, "content_policy", f"word {number}", 1)])
        listed = [(one.code, one.text_id) for one in rejections(chain.config())]
        assert (("content_policy", TEXT) in listed) == (number == 2)
        assert standing(chain.config()).texts_refused == (1 if number == 2 else 0)
    assert [one.code for one in rejections(chain.config())] == ["duplicate_id", "content_policy"]
    assert rejections(chain.config())[0].source is not None
    assert standing(chain.config(batch={"max_attempts": 9})).texts_refused == 0


def test_what_was_spent_is_a_sum_and_unknown_where_a_price_is(chain: Chain) -> None:
    open_project(chain.config())
    settle(chain, 1, [], prompt_tokens=100, cost_usd=0.25, vectors=5)
    settle(chain, 2, [], prompt_tokens=50, cost_usd=0.5, vectors=4)
    found = standing(chain.config())
    assert (found.batches, found.prompt_tokens, found.with_vectors, found.cost_usd) == (2, 150, 9, 0.75)
    settle(chain, 3, [], status="lost", cost_usd=None)  # nothing came back, nothing is known to be billed
    assert standing(chain.config()).cost_usd == 0.75
    settle(chain, 4, [], prompt_tokens=1, cost_usd=None)
    assert standing(chain.config()).cost_usd is None


def test_another_space_of_the_same_store_is_not_mixed_in(chain: Chain) -> None:
    chain.write(documents(range(10))).run()
    other = standing(chain.config(embedding={"model": "wordllama-256", "dimensions": 64}))
    assert (other.batches, other.with_vectors, other.shards) == (0, 0, {})
    assert (other.documents, other.published) == (10, 1)  # what is published is of the store


def test_shards_are_counted_by_state(chain: Chain) -> None:
    chain.write(documents(range(250))).run_and_die("after-claim")
    found = standing(chain.config())
    assert found.shards == {"claimed": 1, "planned": 2}
    assert (found.in_flight, found.with_vectors) == (250, 0)


def test_a_rejected_text_names_the_document_that_it_stands_in(chain: Chain) -> None:
    chain.write(documents(range(3))).run()
    text = ids.text_id(sentence(1)).hex()
    for number in range(3):
        settle(chain, number, [Refusal(text, "content_policy", "no", 1)])
    assert [(one.text_id, one.document_id) for one in rejections(chain.config())] == [(text, "doc-1")]
