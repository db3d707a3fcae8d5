"""Profiles as data, and the times of a configuration laid over them."""

from pathlib import Path
from typing import Any

import pytest

from embedfill.batchapi.prices import batch_price
from embedfill.config import BatchConfig, Config, parse
from embedfill.errors import ConfigError
from embedfill.models.known import resolve
from embedfill.providers.connect import remote_client
from embedfill.providers.profiles import PROFILES, patience_of, profile_of


def config(**embedding: Any) -> Config:
    return parse({"store": "s", "corpus": {"paths": ["x"]}, "embedding": embedding}, Path("/base"), environ={})


@pytest.mark.parametrize("name", ["local", "openai"])
def test_the_profile_that_is_named(name: str) -> None:
    assert profile_of(config(provider=name).embedding).name == name


def test_a_generic_provider_needs_an_address() -> None:
    with pytest.raises(ConfigError, match=r"embedding\.base_url") as raised:
        profile_of(config(provider="generic", model="m", dimensions=4).embedding)
    assert raised.value.exit_code == 2
    assert (
        profile_of(config(provider="generic", base_url="http://x/v1", model="m", dimensions=4).embedding).name
        == "generic"
    )


@pytest.mark.parametrize("name", PROFILES)
def test_times_that_make_sense(name: str) -> None:
    profile = PROFILES[name]
    assert 0 < profile.poll_s <= profile.poll_max_s
    assert 0 < profile.listing_delay_s < profile.claim_ttl_s
    assert profile.paid == (name != "local")
    patience = patience_of(profile, BatchConfig())
    times = (profile.poll_s, profile.poll_max_s, profile.listing_delay_s, profile.claim_ttl_s)
    assert (patience.poll_s, patience.poll_max_s, patience.listing_delay_s, patience.claim_ttl_s) == times


def test_configured_times_stand_over_the_profiles() -> None:
    patience = patience_of(PROFILES["openai"], BatchConfig(poll_s=2.0, listing_delay_s=0.0, claim_ttl_s=7.0))
    assert (patience.poll_s, patience.poll_max_s) == (2.0, 8.0)
    assert (patience.listing_delay_s, patience.claim_ttl_s) == (0.0, 7.0)


@pytest.mark.parametrize(
    ("name", "model", "dimensions", "price"),
    [
        ("voyage", "voyage-4-large", 2048, 0.0804),
        ("voyage", "voyage-3.5-lite", 256, 0.0134),
        ("dashscope", "text-embedding-v4", 64, 0.036),
        ("doubleword", "Qwen/Qwen3-Embedding-8B", 4096, 0.02),
    ],
)
def test_models_of_other_providers_are_known_but_for_their_tokenizers(
    name: str, model: str, dimensions: int, price: float
) -> None:
    made = config(provider=name, model=model, dimensions=dimensions, tokenizer="cl100k_base").embedding
    assert resolve(made).dimensions == dimensions
    assert batch_price(model, name) == pytest.approx(price)
    with pytest.raises(ConfigError, match=r"embedding\.tokenizer is required .*huggingface\.co"):
        resolve(made.model_copy(update={"tokenizer": None}))
    with pytest.raises(ConfigError, match=rf"embedding\.dimensions = {dimensions + 1}"):
        resolve(made.model_copy(update={"dimensions": dimensions + 1}))


def test_a_key_is_needed_where_documents_disagree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Azure has no address of its own: a base_url must not be taken for a server without keys."""
    monkeypatch.delenv("AZURE_OPENAI_API_KEY", raising=False)
    made = config(provider="azure", base_url="https://x.openai.azure.com/openai/v1", model="m", dimensions=4)
    with pytest.raises(ConfigError, match="AZURE_OPENAI_API_KEY"):
        remote_client(made.embedding, profile_of(made.embedding))
