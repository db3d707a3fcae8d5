"""The one interface of a local embedding model, and of a tokenizer. No model lives here."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


class Tokenizer(Protocol):
    """Exact counts and places of the tokens of *ordinary* text: a literal `[SEP]` or `<|endoftext|>` is text."""

    name: str
    special_tokens: int  # added by the model around every text; not part of `count`
    vocabulary: int  # token ids are below it

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without special tokens."""

    def offsets(self, text: str) -> NDArray[np.int64]:
        """Character offset where each token of `text` starts, shape (tokens,), not decreasing."""


@runtime_checkable
class IdTokenizer(Tokenizer, Protocol):
    """A tokenizer that gives token ids: a model that has one is asked for vectors of ids, so nothing is tokenized twice."""

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens."""


class Model(Protocol):
    """A model that runs in this process. Thread-safe; never on an event loop."""

    name: str
    dimensions: int
    max_tokens: int  # of a text, special tokens included

    @property
    def tokenizer(self) -> Tokenizer:
        """What its texts are counted with."""

    @property
    def shorter_dimensions(self) -> Sequence[int]:
        """What `dimensions` may also ask for (then normalised again)."""

    def embed(self, inputs: Sequence[str | Sequence[int]]) -> Vectors:
        """Unit vectors, float32, shape (len(inputs), dimensions), in order. An input is a text or its token ids
        (without special tokens). What is over `max_tokens` is cut off at its end. Inputs are best of like length."""


def normalise(vectors: Vectors) -> Vectors:
    """Unit vectors of the rows, float32. A row of zeros becomes the first axis, so that no NaN ever leaves a model."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    empty = norms[:, 0] == 0
    norms[empty] = 1
    units = np.asarray(vectors / norms, dtype=np.float32)
    units[empty, 0] = 1
    return units


def shorten(vectors: Vectors, dimensions: int) -> Vectors:
    """The first `dimensions` of each vector, normalised again; the vectors themselves where nothing is to be cut."""
    return vectors if dimensions == vectors.shape[1] else normalise(vectors[:, :dimensions])
