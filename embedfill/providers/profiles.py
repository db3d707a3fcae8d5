"""What differs between batch providers, as data: where they are, what they allow, how patient to be with them."""

from dataclasses import dataclass

from embedfill.batchapi.limits import LOCAL, OPENAI, Limits
from embedfill.config import BatchConfig, Config
from embedfill.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Profile:
    """Times in seconds: between polls (growing to `poll_max_s`), how long a new batch may be missing from a listing,
    and after how long a claim whose maker cannot be seen is taken for abandoned."""

    name: str
    base_url: str | None
    limits: Limits
    poll_s: float
    poll_max_s: float
    listing_delay_s: float
    claim_ttl_s: float
    paid: bool


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("local", None, LOCAL, 0.1, 1.0, 0.5, 60.0, paid=False),
        Profile("openai", "https://api.openai.com/v1", OPENAI, 30.0, 300.0, 60.0, 900.0, paid=True),
        Profile("generic", None, OPENAI, 10.0, 120.0, 30.0, 900.0, paid=True),
    )
}


@dataclass(frozen=True, slots=True)
class Patience:
    """The times of a profile with a configuration's own laid over them."""

    poll_s: float
    poll_max_s: float
    listing_delay_s: float
    claim_ttl_s: float


def profile_of(config: Config) -> Profile:
    """The profile that the configuration names. Raises ConfigError when it needs a base_url and has none."""
    profile = PROFILES[config.embedding.provider]
    if profile.name == "local" and config.embedding.base_url:
        allowed = "is for a remote provider: set embedding.provider to 'openai' or 'generic', or leave it out"
        raise ConfigError("embedding.base_url", config.embedding.base_url, allowed)
    if profile.name == "generic" and not config.embedding.base_url:
        raise ConfigError("embedding.base_url", None, "is required with provider = 'generic'")
    return profile


def patience_of(profile: Profile, batch: BatchConfig) -> Patience:
    poll = batch.poll_s or profile.poll_s
    return Patience(
        poll_s=poll,
        poll_max_s=max(profile.poll_max_s if batch.poll_s is None else poll * 4, poll),
        listing_delay_s=profile.listing_delay_s if batch.listing_delay_s is None else batch.listing_delay_s,
        claim_ttl_s=batch.claim_ttl_s or profile.claim_ttl_s,
    )
