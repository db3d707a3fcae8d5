"""Whole runs against a provider that is not the store's own engine: price, budget, failures that never end."""

from typing import Any

import pytest

from embedfill.config import load
from embedfill.errors import ConfigError, ProviderError
from embedfill.progress import Quiet
from embedfill.run import Options, Summary
from embedfill.status import standing
from tests.chain_fixtures import Chain, documents
from tests.provider_fixtures import DIMENSIONS, Provider, refuse

BATCH = {"max_inputs": 10, "inputs_per_request": 5, "poll_s": 0.002, "listing_delay_s": 0.03}


@pytest.fixture
def run(chain: Chain, provider: Provider) -> Any:
    """Runs the chain against the provider, with these [batch] settings."""

    def once(options: Options | None = None, extra: dict[str, Any] | None = None, **batch: Any) -> Summary:
        embedding = {
            "provider": "generic", "base_url": provider.url, "model": "tiny", "dimensions": DIMENSIONS,
            "price_per_million": 1000.0, **(extra or {}),
        }  # fmt: skip
        return chain.run(options, embedding=embedding, batch={**BATCH, **batch})

    return once


def test_a_run_against_a_remote_provider(chain: Chain, provider: Provider, run: Any) -> None:
    chain.write(documents(range(30)))
    summary = run()
    assert (summary.texts, summary.embedded, summary.batches, summary.rejected) == (30, 30, 3, 0)
    assert summary.cost_usd == pytest.approx(0.03)
    assert len(provider.texts_sent()) == 30
    before = len(provider.requests)
    assert run().embedded == 0 and len(provider.requests) == before


def test_failures_without_end_stop_the_run(chain: Chain, provider: Provider, run: Any) -> None:
    """One shard a plan: the count must go on from plan to plan."""
    chain.write(documents(range(5)))
    provider.endings = ["model_not_found"] * 1000
    with pytest.raises(ProviderError, match=r"3 batches in a row .* model_not_found"):
        run()
    assert len(provider.batches) == 3


def test_a_text_that_is_always_refused_is_rejected_and_the_rest_is_published(
    chain: Chain, provider: Provider, run: Any
) -> None:
    rows = documents(range(12))
    provider.refuses = {rows[3]["text"]}
    summary = chain.write(rows) and run()
    assert (summary.documents, summary.texts, summary.rejected) == (12, 11, 1)
    sent = provider.texts_sent()
    assert sent.count(rows[3]["text"]) == 3 and max(map(sent.count, set(sent) - provider.refuses)) == 2
    assert run().rejected == 1 and provider.texts_sent() == sent


def test_a_budget_stops_and_goes_on(chain: Chain, provider: Provider, run: Any) -> None:
    chain.write(documents(range(30)))
    parked = run(budget_usd=0.0001)
    assert parked.parked is not None and "budget_usd" in parked.parked.message
    assert run(budget_usd=100.0).texts == 30


def test_a_billing_limit_stops_and_goes_on(chain: Chain, provider: Provider, run: Any) -> None:
    chain.write(documents(range(30)))
    provider.script("POST", "/batches", refuse(429, "insufficient_quota", "no money left"))
    parked = run()
    assert parked.parked is not None and "no money left" in parked.parked.message and parked.snapshot == ""
    assert (run().texts, len(provider.batches)) == (30, 3)


def test_runs_that_do_not_wait_get_there_in_the_end(chain: Chain, provider: Provider, run: Any) -> None:
    chain.write(documents(range(30)))
    provider.hold = True
    first = run(Options(wait=False))
    assert not first.finished and len(provider.batches) == 3
    assert not run(Options(wait=False)).finished
    provider.finish()
    last = run(Options(wait=False))
    assert last.finished and last.texts == 30 and len(provider.batches) == 3


def test_a_small_remainder_goes_through_the_synchronous_endpoint(chain: Chain, provider: Provider, run: Any) -> None:
    price = {"sync_price_per_million": 2000.0}
    chain.write(documents(range(30)))
    assert (run(Options(sync_tail=29), price).texts, len(provider.batches)) == (30, 3)
    chain.write(documents(range(34)))
    summary = run(Options(sync_tail=29), price)
    assert (summary.texts, summary.embedded, len(provider.batches)) == (34, 4, 3)
    assert summary.cost_usd == pytest.approx(4 * 2000 / 1e6)


def test_a_remainder_that_the_budget_does_not_cover_at_that_price_goes_out_as_a_batch(
    chain: Chain, provider: Provider, run: Any
) -> None:
    chain.write(documents(range(4)))
    summary = run(Options(sync_tail=4), {"sync_price_per_million": 10_000.0}, budget_usd=0.1)
    assert (summary.texts, summary.parked, len(provider.batches)) == (4, None, 1)
    chain.write(documents(range(6)))
    with pytest.raises(ConfigError, match="sync_price_per_million is required"):
        run(Options(sync_tail=9), budget_usd=0.1)


def test_what_was_sent_without_a_price_counts_against_a_later_budget(
    chain: Chain, provider: Provider, run: Any
) -> None:
    """Ten texts through the synchronous endpoint, a token each, whose price nobody had said."""
    chain.write(documents(range(10)))
    assert run(Options(sync_tail=10)).cost_usd is None
    chain.write(documents(range(20)))
    with pytest.raises(ConfigError, match=r"embedding\.sync_price_per_million is required with a budget"):
        run(budget_usd=0.115)
    assert not provider.batches
    price = {"sync_price_per_million": 2000.0}
    parked = run(None, price, budget_usd=0.115).parked
    assert parked is not None and "$0.02 spent" in parked.message and not provider.batches
    assert run(None, price, budget_usd=0.125).texts == 20


def test_a_batch_without_a_price_counts_against_a_later_budget(chain: Chain, provider: Provider, run: Any) -> None:
    chain.write(documents(range(10)))
    chain.settings["embedding"] = {
        "provider": "generic", "base_url": provider.url, "model": "tiny", "dimensions": DIMENSIONS,
    }  # fmt: skip
    assert chain.run(batch=BATCH).cost_usd is None
    chain.write(documents(range(20)))
    parked = run(budget_usd=0.105)
    assert parked.parked is not None and "$0.01 spent" in parked.parked.message
    assert (parked.finished, parked.planned, parked.in_flight) == (False, 10, 0)
    assert run(budget_usd=0.115).texts == 20


class Notes(Quiet):
    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, message: str) -> None:
        self.said.append(message)


def test_what_another_model_has_out_is_told_and_counts_against_the_budget(
    chain: Chain, provider: Provider, run: Any
) -> None:
    chain.write(documents(range(30)))
    provider.hold = True
    run(Options(wait=False), budget_usd=100.0)
    spent = standing(load(chain.config_path)).in_flight_usd
    assert spent and len(provider.batches) == 3
    notes = Notes()
    parked = run(Options(wait=False, progress=notes), {"model": "other"}, budget_usd=1.5 * spent).parked
    assert parked is not None and "3 batches are out of another configuration" in notes.said[0]
    found = standing(load(chain.config_path))
    assert (found.elsewhere_batches_out, found.elsewhere_usd) == (3, pytest.approx(spent))
    assert found.left_usd == pytest.approx(0.5 * spent - (found.in_flight_usd or 0.0))
