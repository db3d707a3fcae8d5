"""Inputs and prompt tokens of the requests of one batch, counted as far as a limit asks for them. Knows no limit.

Tokens are exact for embeddings of models whose tokenizer is known, else estimated with the tokenizer of the model's
family, else from the bytes. What images and files take nobody can count here.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from embedfill.jobs.endpoints import ENDPOINTS, Measured
from embedfill.jobs.tokens import Counter

_GROUP_CHARS = 1 << 20  # texts are tokenized together
_PIECE_CHARS = 1 << 16  # longer texts in pieces: some tokenizers take far more than twice as long for twice the text


class Prompts:
    """`inputs` so far, and with `tokens()` their tokens, of one model at one endpoint."""

    def __init__(self, endpoint: str, counts_tokens: bool) -> None:
        self.inputs = 0
        self._measure = ENDPOINTS[endpoint].measure
        self._counter = Counter(endpoint) if counts_tokens else None
        self._tokens = 0
        self._held: list[Measured] = []
        self._chars = 0
        self._model = ""

    def add(self, model: str, body: Mapping[str, Any]) -> None:
        measured = self._measure(body)
        self.inputs += measured.inputs
        if self._counter is None:
            return
        self._model = model
        self._held.append(replace(measured, texts=_pieces(measured.texts)))
        self._chars += sum(map(len, measured.texts))
        if self._chars >= _GROUP_CHARS:
            self._count()

    def tokens(self) -> int:
        """Of all that was added. Raises ModelError where the tokenizer's package is missing."""
        self._count()
        return self._tokens

    def _count(self) -> None:
        if self._counter is not None and self._held:
            self._tokens += int(self._counter.count(self._model, self._held).sum())
        self._held, self._chars = [], 0


def _pieces(texts: list[str]) -> list[str]:
    if all(len(text) <= _PIECE_CHARS for text in texts):
        return texts
    return [text[at : at + _PIECE_CHARS] for text in texts for at in range(0, len(text), _PIECE_CHARS)]
