"""Where a store stands: read off its objects, and money that is not known."""

import pytest

from embedfill.errors import UsageError
from embedfill.project import open_project
from embedfill.status import standing
from tests.chain_fixtures import Chain, documents, settle


def test_a_store_without_anything_published(chain: Chain) -> None:
    open_project(chain.config())
    found = standing(chain.config())
    assert (found.snapshot, found.published, found.index, found.shards, found.batches) == ("", 0, {}, {}, 0)
    assert (found.cost_usd, found.model) == (0.0, "wordllama-256")


def test_no_store_at_all(chain: Chain) -> None:
    with pytest.raises(UsageError, match="no store"):
        standing(chain.config())
    assert not (chain.folder / "store").exists()


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
