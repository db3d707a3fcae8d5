"""What differs between batch providers, as data: where they are, what they allow, how they are spoken to, how patient
to be with them."""

from dataclasses import dataclass

from embedfill.batchapi.dialect import OPENAI_DIALECT, Dialect
from embedfill.batchapi.limits import DASHSCOPE, LOCAL, OPENAI, VOYAGE, Limits
from embedfill.config import BatchConfig, EndpointConfig
from embedfill.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Profile:
    """Times in seconds: between polls (growing to `poll_max_s`), how long a new batch may be missing from a listing,
    and after how long a claim whose maker cannot be seen is taken for abandoned. `tiers` are prompt tokens that may be
    enqueued at once, by the account's tier from 1. `confirmed` False: documents disagree about it, probe it first."""

    name: str
    base_url: str | None
    key_env: str
    paid: bool = True
    limits: Limits = OPENAI
    dialect: Dialect = OPENAI_DIALECT
    tiers: tuple[int, ...] = ()
    poll_s: float = 30.0
    poll_max_s: float = 300.0
    listing_delay_s: float = 60.0
    claim_ttl_s: float = 900.0
    confirmed: bool = True


_OPENAI_TIERS = (3_000_000, 20_000_000, 100_000_000, 500_000_000, 4_000_000_000)
_VOYAGE = Dialect(model_in="batch", windows=("12h",), dimensions="output_dimension")

PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            "local", None, "EMBEDFILL_ENGINE_KEY", paid=False, limits=LOCAL,
            poll_s=0.1, poll_max_s=1.0, listing_delay_s=0.5, claim_ttl_s=60.0,
        ),
        Profile("openai", "https://api.openai.com/v1", "OPENAI_API_KEY", tiers=_OPENAI_TIERS),
        Profile("voyage", "https://api.voyageai.com/v1", "VOYAGE_API_KEY", limits=VOYAGE, dialect=_VOYAGE),
        Profile(
            "dashscope", "https://dashscope-intl.aliyuncs.com/compatible-mode/v1", "DASHSCOPE_API_KEY",
            limits=DASHSCOPE,
        ),
        Profile(
            "doubleword", "https://api.doubleword.ai/v1", "DOUBLEWORD_API_KEY",
            dialect=Dialect(windows=("24h", "1h")),
        ),
        Profile("azure", None, "AZURE_OPENAI_API_KEY", dialect=Dialect(auth="api-key"), confirmed=False),
        Profile("generic", None, "OPENAI_API_KEY", poll_s=10.0, poll_max_s=120.0, listing_delay_s=30.0),
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Patience:
    """The times of a profile with a configuration's own laid over them."""

    poll_s: float
    poll_max_s: float
    listing_delay_s: float
    claim_ttl_s: float


def profile_of(endpoint: EndpointConfig) -> Profile:
    """The profile that the configuration names. Raises ConfigError when it needs a base_url and has none."""
    profile = PROFILES[endpoint.provider]
    if profile.name == "local" and endpoint.base_url:
        allowed = "is for a remote provider: set embedding.provider to 'openai' or 'generic', or leave it out"
        raise ConfigError("embedding.base_url", endpoint.base_url, allowed)
    if profile.name != "local" and not profile.base_url and not endpoint.base_url:
        raise ConfigError("embedding.base_url", None, f"is required with provider = {profile.name!r}")
    return profile


def window_of(profile: Profile, batch: BatchConfig) -> str:
    """The completion window to ask for. Raises ConfigError for one that the provider is known not to offer."""
    window = batch.completion_window or profile.dialect.windows[0]
    if profile.name != "generic" and window not in profile.dialect.windows:
        raise ConfigError("batch.completion_window", window, f"one of {', '.join(profile.dialect.windows)}")
    return window


def patience_of(profile: Profile, batch: BatchConfig) -> Patience:
    poll = batch.poll_s or profile.poll_s
    return Patience(
        poll_s=poll,
        poll_max_s=max(profile.poll_max_s if batch.poll_s is None else poll * 4, poll),
        listing_delay_s=profile.listing_delay_s if batch.listing_delay_s is None else batch.listing_delay_s,
        claim_ttl_s=batch.claim_ttl_s or profile.claim_ttl_s,
    )
