"""What is known of each embedding model, as data: dimensions, limits, tokenizer. Local ones are named here, not run."""

from dataclasses import dataclass, replace

from embedfill.config import EmbeddingConfig
from embedfill.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """`tokenizer` is a name that `embedfill.models.tokenizers.load` knows; `max_tokens` counts special tokens."""

    name: str
    dimensions: int
    max_tokens: int
    tokenizer: str
    shorter: tuple[int, ...] | None = ()  # dimensions that may be asked for instead; None: any below
    local: bool = False
    published: str = ""  # where its `tokenizer.json` is to be had, for one that does not come with us


KNOWN = {
    info.name: info
    for info in (
        ModelInfo("all-MiniLM-L6-v2", 384, 256, "all-MiniLM-L6-v2", local=True),
        ModelInfo("wordllama-256", 256, 2048, "wordllama-256", shorter=(64, 128), local=True),
        ModelInfo("all-MiniLM-L6-v2-int8", 384, 256, "all-MiniLM-L6-v2", local=True),
        ModelInfo("text-embedding-3-small", 1536, 8192, "cl100k_base", shorter=None),
        ModelInfo("text-embedding-3-large", 3072, 8192, "cl100k_base", shorter=None),
        ModelInfo("text-embedding-ada-002", 1536, 8192, "cl100k_base"),
        # Voyage documents four lengths for each of these; longer than the usual one is one of them.
        *(
            ModelInfo(name, 1024, 32_000, "", shorter=(256, 512, 2048), published=f"huggingface.co/voyageai/{name}")
            for name in (
                "voyage-4-large", "voyage-4", "voyage-4-lite", "voyage-3-large", "voyage-3.5", "voyage-3.5-lite",
                "voyage-code-3",
            )
        ),
        ModelInfo(  # of the Qwen3-Embedding family by its documents, and taken to count tokens as that does
            "text-embedding-v4", 1024, 8192, "", shorter=(64, 128, 256, 512, 768, 1536, 2048),
            published="huggingface.co/Qwen/Qwen3-Embedding-0.6B",
        ),
        ModelInfo(
            "Qwen/Qwen3-Embedding-8B", 4096, 32_000, "", published="huggingface.co/Qwen/Qwen3-Embedding-8B",
        ),
    )
}  # fmt: skip
LOCAL = tuple(info.name for info in KNOWN.values() if info.local)


def resolve(config: EmbeddingConfig) -> ModelInfo:
    """The model that a configuration names, with its own dimensions and limits applied. Raises ConfigError."""
    if config.provider == "local" and config.model not in LOCAL:
        raise ConfigError("embedding.model", config.model, f"the local provider runs {', '.join(LOCAL)}")
    info = KNOWN.get(config.model) or _unknown(config)
    if config.max_input_tokens:
        info = replace(info, max_tokens=min(info.max_tokens, config.max_input_tokens))
    if config.tokenizer:
        info = replace(info, tokenizer=config.tokenizer)
    if not info.tokenizer:
        raise ConfigError(
            "embedding.tokenizer", None,
            f"is required for {info.name}, whose tokens are counted before they are paid for: the path of its "
            f"tokenizer.json ({info.published}), or 'cl100k_base' for a rough count",
        )  # fmt: skip
    wanted = config.dimensions or info.dimensions
    allowed = range(1, info.dimensions) if info.shorter is None else info.shorter
    if wanted != info.dimensions and wanted not in allowed:
        names = (
            f"1 to {info.dimensions}"
            if info.shorter is None
            else ", ".join(map(str, sorted((*info.shorter, info.dimensions))))
        )
        raise ConfigError("embedding.dimensions", wanted, f"{info.name} has {names}")
    return replace(info, dimensions=wanted)


def max_chunk_tokens(info: ModelInfo, configured: int | None) -> int:
    """Tokens of a chunk, special tokens included: the model's limit, at most 512, unless configured lower or higher."""
    if configured is None:
        return min(info.max_tokens, 512)
    if configured > info.max_tokens:
        raise ConfigError("chunking.max_tokens", configured, f"at most {info.max_tokens}, the limit of {info.name}")
    return configured


def _unknown(config: EmbeddingConfig) -> ModelInfo:
    """A model of the user's own server: its dimensions must be said; the rest has careful defaults."""
    if config.dimensions is None:
        raise ConfigError(
            "embedding.dimensions", None, f"is required for {config.model!r}, which embedfill does not know"
        )
    limit = config.max_input_tokens or 512
    return ModelInfo(config.model, config.dimensions, limit, config.tokenizer or "cl100k_base")
