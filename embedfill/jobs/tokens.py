"""How many prompt tokens requests have: exact for embeddings, else estimated, else guessed from their bytes."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from embedfill.batchapi.models import EMBEDDINGS
from embedfill.jobs.endpoints import ENDPOINTS, Measured
from embedfill.models import tokenizers
from embedfill.models.base import Tokenizer
from embedfill.models.known import KNOWN

EXACT = "exact"
_BYTES_PER_TOKEN = (
    3  # of the usual languages and code: fewer bytes than most tokens have, so more tokens than most texts
)
_O200K = ("gpt-4o", "gpt-4.1", "gpt-4.5", "gpt-5", "chatgpt-4o", "o1", "o3", "o4", "gpt-oss")
_CL100K = ("gpt-4", "gpt-3.5", "text-embedding-")


def tokenizer_name(model: str) -> str | None:
    """The tokenizer of a model, by what its name begins with; None where that is not known."""
    if model in KNOWN:
        return KNOWN[model].tokenizer
    plain = model.removeprefix("ft:")
    if plain.startswith(_O200K):
        return "o200k_base"
    return "cl100k_base" if plain.startswith(_CL100K) else None


class Counter:
    """Counts for one endpoint. `how` says of each model what its counts are."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = ENDPOINTS[endpoint]
        self.how: dict[str, str] = {}
        self._tokenizers: dict[str, Tokenizer | None] = {}

    def count(self, model: str, requests: Sequence[Measured]) -> NDArray[np.int64]:
        """Prompt tokens of requests of one model, shape (n,)."""
        tokenizer = self._tokenizer(model)
        texts = [text for request in requests for text in request.texts]
        owners = np.repeat(np.arange(len(requests)), [len(request.texts) for request in requests])
        counts = [-(-len(text.encode()) // _BYTES_PER_TOKEN) for text in texts]
        special = 0
        if tokenizer is not None:
            counts, special = tokenizer.count(texts) if texts else [], tokenizer.special_tokens
        found = np.array([request.tokens for request in requests], np.int64)
        np.add.at(found, owners, np.array(counts, np.int64) + special)
        return found

    def _tokenizer(self, model: str) -> Tokenizer | None:
        if model not in self._tokenizers:
            name = tokenizer_name(model)
            self._tokenizers[model] = tokenizers.load(name) if name else None
            exact = self.endpoint.path == EMBEDDINGS and model in KNOWN
            self.how[model] = EXACT if exact and name else f"estimated with {name}" if name else "guessed from bytes"
        return self._tokenizers[model]
