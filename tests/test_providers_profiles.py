"""Profiles as data, and the times of a configuration laid over them."""

from pathlib import Path
from typing import Any

import pytest

from embedfill.config import BatchConfig, Config, parse
from embedfill.errors import ConfigError
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
