"""A dated price table, USD per million prompt tokens. A configuration may override it (`price_per_million`)."""

from dataclasses import dataclass

DATED = "2026-11"


@dataclass(frozen=True, slots=True)
class Price:
    sync: float
    batch: float


_VOYAGE_BATCH = 0.67  # of the synchronous price: "a discount of 33 %"


def _voyage(sync: float) -> Price:
    return Price(sync, round(sync * _VOYAGE_BATCH, 6))


PRICES = {
    "text-embedding-3-small": Price(0.02, 0.01),
    "text-embedding-3-large": Price(0.13, 0.065),
    "text-embedding-ada-002": Price(0.10, 0.05),
    "voyage-4-large": _voyage(0.12),
    "voyage-4": _voyage(0.06),
    "voyage-4-lite": _voyage(0.02),
    "voyage-3-large": _voyage(0.18),
    "voyage-3.5": _voyage(0.06),
    "voyage-3.5-lite": _voyage(0.02),
    "voyage-code-3": _voyage(0.18),
    "text-embedding-v4": Price(0.072, 0.036),
    "Qwen/Qwen3-Embedding-8B": Price(0.03, 0.02),
}


def batch_price(model: str, provider: str, override: float | None = None) -> float | None:
    """USD per million prompt tokens of a batch; 0 for local models, None where nobody has said."""
    if override is not None:
        return override
    if provider == "local":
        return 0.0
    return PRICES[model].batch if model in PRICES else None


def sync_price(model: str, provider: str, override: float | None = None) -> float | None:
    """The same of the synchronous endpoint."""
    if override is not None:
        return override
    if provider == "local":
        return 0.0
    return PRICES[model].sync if model in PRICES else None


def cost_usd(tokens: int, per_million: float | None) -> float | None:
    return None if per_million is None else tokens * per_million / 1e6
