"""What becomes of documents that need a decision before anything is spent on them: special tokens in their text, and
values for the template that leave the text no room. Chunks nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from embedfill.chunker.special import special_words
from embedfill.chunker.splitter import LEAST_ROOM, Splitter
from embedfill.records import ChunkSpec, Document, Rejection

TRUNCATED = "truncated"  # the code of a record that leaves nothing out
SPECIAL_TOKEN = "special_token"  # noqa: S105 - a code
_MOST_BYTES = 4  # of a character


class Policy:
    """The policies of one ChunkSpec. With the default ones nothing is looked at."""

    def __init__(self, spec: ChunkSpec) -> None:
        self._spec = spec
        self._special = special_words(spec.tokenizer_here) if spec.special_tokens != "text" else None
        self._splitter = Splitter(spec) if spec.too_long == "truncate" else None
        empty = dict.fromkeys(self._splitter.template.names, "") if self._splitter else {}
        room = self._splitter.room(empty) if self._splitter else 0
        self._free_bytes = room - -(-spec.max_tokens // LEAST_ROOM)  # that all values may have in any case

    def screen(self, documents: Sequence[Document]) -> tuple[list[Document], list[Rejection]]:
        """The documents that may be embedded, and why the others may not."""
        found = [(document, self._refusal(document)) for document in documents]
        return [document for document, why in found if why is None], [why for _, why in found if why is not None]

    def fit(self, document: Document) -> tuple[Document, Rejection | None]:
        """The document with the values that the template names cut to leave a quarter of the tokens to the text, where
        that is the policy and they do not; and a record of it."""
        if self._splitter is None or not document.fields or self._has_room(self._splitter, document):
            return document, None
        most = self._most(self._splitter, document.fields)
        if most is None:
            return document, None  # the template itself is too long: the chunker rejects the document, with words
        named = ", ".join(name for name, value in document.fields.items() if len(value) > most)
        message = f"{named} cut to {most} characters: the template left too little of {self._spec.max_tokens} tokens to the text"
        record = Rejection(TRUNCATED, message, document.id, document.source)
        return replace(document, fields=_cut(document.fields, most)), record

    def _refusal(self, document: Document) -> Rejection | None:
        if self._special is None:
            return None
        named = {"the text": document.text, **{f"column {name!r}": value for name, value in document.fields.items()}}
        hits = [(where, word) for where, value in named.items() if (word := self._special.find(value)) is not None]
        if hits and self._spec.special_tokens == "reject":
            where, word = hits[0]
            return Rejection(SPECIAL_TOKEN, f"{where} holds the special token {word}", document.id, document.source)
        if hits and not self._special.without(document.text).strip():
            return Rejection("empty_text", "the text is nothing but special tokens", document.id, document.source)
        return None

    def _has_room(self, splitter: Splitter, document: Document) -> bool:
        """Whether the document can be chunked as it is."""
        if sum(map(len, document.fields.values())) * _MOST_BYTES <= self._free_bytes:  # a token has a byte, or more
            return True
        if splitter.has_room(document.fields):
            return True
        draft = splitter.whole(document.text, document.fields)
        return draft is not None and splitter.count([draft.embed])[0] <= self._spec.max_tokens

    def _most(self, splitter: Splitter, fields: Mapping[str, str]) -> int | None:
        """How many characters each value may have, at most; None where even empty ones leave too little room."""
        if not splitter.has_room(_cut(fields, 0)):
            return None
        low, high = 0, min(max(map(len, fields.values())), self._spec.max_bytes)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if splitter.has_room(_cut(fields, middle)) else (low, middle - 1)
        return low


def _cut(fields: Mapping[str, str], most: int) -> dict[str, str]:
    return {name: value[:most].rstrip() if len(value) > most else value for name, value in fields.items()}
