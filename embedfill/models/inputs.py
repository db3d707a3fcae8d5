"""Turns what `Model.embed` takes (texts, token ids, or both mixed) into token ids. Adds no special tokens."""

from collections.abc import Sequence

from embedfill.models.tokenizers import FileTokenizer


def token_ids(tokenizer: FileTokenizer, inputs: Sequence[str | Sequence[int]], max_tokens: int) -> list[Sequence[int]]:
    """Token ids of each input in order, each cut off at `max_tokens`. Texts are tokenized together."""
    texts = [item for item in inputs if isinstance(item, str)]
    encoded = iter(tokenizer.ids(texts))
    return [(next(encoded) if isinstance(item, str) else item)[:max_tokens] for item in inputs]
