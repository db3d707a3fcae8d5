"""What differs between batch providers, as data: where they are, what they allow, how they are spoken to, how patient
to be with them. What no document of the provider confirms is marked."""

from dataclasses import dataclass

from embedfill.batchapi.dialect import OPENAI_DIALECT, Dialect, EncodingFormat
from embedfill.batchapi.limits import DASHSCOPE, DOUBLEWORD, LOCAL, OPENAI, VOYAGE, Limits
from embedfill.config import BatchConfig, EmbeddingConfig, EndpointConfig
from embedfill.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Profile:
    """Times in seconds: between polls (growing to `poll_max_s`), how long a new batch may be missing from a listing,
    and after how long a claim whose maker cannot be seen is taken for abandoned. `embedding_tiers` are prompt
    tokens of embedding models that may be enqueued at once, by the account's tier from 1; other models have limits of
    their own, each another. `confirmed` False: documents disagree about it, probe it first."""

    name: str
    base_url: str | None
    key_env: str
    paid: bool = True
    limits: Limits = OPENAI
    dialect: Dialect = OPENAI_DIALECT
    embedding_tiers: tuple[int, ...] = ()
    poll_s: float = 30.0
    poll_max_s: float = 300.0
    listing_delay_s: float = 60.0
    claim_ttl_s: float = 900.0
    lost_s: float = 172_800.0
    confirmed: bool = True


_OPENAI_EMBEDDING_TIERS = (3_000_000, 20_000_000, 100_000_000, 500_000_000, 4_000_000_000)
# Lines have no model: POST /batches names it, with all parameters. "float" is no encoding_format there, but what comes
# without one. Unconfirmed: that request_params takes every parameter of the synchronous endpoint.
_VOYAGE = Dialect(
    model_in="batch", windows=("12h",), dimensions="output_dimension", unsaid="float", delete="body"
)  # fmt: skip
# Whole hours or days from 24h to 14d. Of the encodings only float is documented.
_DASHSCOPE = Dialect(windows=("24h", *(f"{days}d" for days in range(2, 15))), formats=("float",))
# What "batch" and "async" are called there. That the embeddings of its servers honour base64 is not documented.
_DOUBLEWORD = Dialect(windows=("24h", "1h"), formats=("float", "base64"))
# The newer documents name /v1/embeddings among the endpoints, the older ones offer chat alone and write /chat/completions
# without /v1: batch.endpoint sets it, and a probe finds it out.
_AZURE = Dialect(auth="api-key")

PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            "local", None, "EMBEDFILL_ENGINE_KEY", paid=False, limits=LOCAL,
            poll_s=0.1, poll_max_s=1.0, listing_delay_s=0.5, claim_ttl_s=60.0, lost_s=0.0,
        ),
        Profile(
            "openai", "https://api.openai.com/v1", "OPENAI_API_KEY", embedding_tiers=_OPENAI_EMBEDDING_TIERS,
        ),
        Profile("voyage", "https://api.voyageai.com/v1", "VOYAGE_API_KEY", limits=VOYAGE, dialect=_VOYAGE),
        Profile(  # its batches embed in the Beijing region only; the international one offers text generation alone
            "dashscope", "https://dashscope.aliyuncs.com/compatible-mode/v1", "DASHSCOPE_API_KEY",
            limits=DASHSCOPE, dialect=_DASHSCOPE,
        ),
        Profile(
            "doubleword", "https://api.doubleword.ai/v1", "DOUBLEWORD_API_KEY", limits=DOUBLEWORD, dialect=_DOUBLEWORD,
        ),
        Profile("azure", None, "AZURE_OPENAI_API_KEY", dialect=_AZURE, confirmed=False),
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
    lost_s: float = 0.0


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


def format_of(profile: Profile, embedding: EmbeddingConfig) -> EncodingFormat:
    """How vectors are to travel. Raises ConfigError for a way that the provider is known not to offer."""
    wanted = embedding.encoding_format or profile.dialect.formats[0]
    if wanted not in profile.dialect.formats:
        raise ConfigError(
            "embedding.encoding_format", wanted, f"{profile.name} knows {profile.dialect.formats[0]!r} only"
        )
    return wanted


def patience_of(profile: Profile, batch: BatchConfig) -> Patience:
    poll = batch.poll_s or profile.poll_s
    return Patience(
        poll_s=poll,
        poll_max_s=max(profile.poll_max_s if batch.poll_s is None else poll * 4, poll),
        listing_delay_s=profile.listing_delay_s if batch.listing_delay_s is None else batch.listing_delay_s,
        claim_ttl_s=batch.claim_ttl_s or profile.claim_ttl_s,
        lost_s=profile.lost_s if batch.lost_after_s is None else batch.lost_after_s,
    )
