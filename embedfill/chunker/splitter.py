"""Cuts one document into chunks that fit the model, exactly counted. Pure: reads and writes nothing.

The document is tokenized once to know about how far a window reaches. A chunk ends at the best cut in the second half
of its window, and what goes to the model (template, passage, special tokens) is counted again, as it is.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from embedfill.chunker import outline as outlines
from embedfill.chunker.cuts import Cutter
from embedfill.chunker.outline import Outline
from embedfill.chunker.special import special_words
from embedfill.chunker.template import Template
from embedfill.models import tokenizers
from embedfill.records import Chunk, ChunkSpec

LEAST_ROOM = 4  # the template leaves at least a quarter of the tokens to the passage
_MOST_OVERLAP = 3  # an overlap takes at most a third of the window: more would be little progress
_SHORT = 5  # characters for each token that is allowed: a document up to this is tried whole


@dataclass(frozen=True, slots=True)
class Draft:
    """A passage `[start:end]` and what goes to the model for it, not yet counted."""

    start: int
    end: int
    heading: str
    passage: str
    embed: str

    def chunk(self, ordinal: int, tokens: int) -> Chunk:
        return Chunk(ordinal, self.start, self.end, self.heading, self.passage, self.embed, tokens)


class Splitter:
    """Splits documents by one ChunkSpec. Raises ConfigError for a wrong template or an unknown tokenizer."""

    def __init__(self, spec: ChunkSpec) -> None:
        self.spec = spec
        self.tokenizer = tokenizers.load(spec.tokenizer_here)
        self.template = Template(spec.template)
        self._special = special_words(spec.tokenizer_here) if spec.special_tokens == "remove" else None

    def count(self, embeds: Sequence[str]) -> list[int]:
        """Tokens of what goes to the model, special tokens included."""
        special = self.tokenizer.special_tokens
        return [tokens + special for tokens in self.tokenizer.count(embeds)]

    def render(self, passage: str, fields: Mapping[str, str]) -> str:
        """What goes to the model for a passage."""
        embed = self.template.render(passage, fields)
        return self._special.without(embed) if self._special else embed

    def says(self, passage: str) -> bool:
        """Whether anything of the passage goes to the model."""
        return bool(passage) and (self._special is None or bool(self._special.without(passage).strip()))

    def room(self, fields: Mapping[str, str]) -> int:
        """Tokens that the template with these values leaves to a passage."""
        return self.spec.max_tokens - self.count([self.render("", fields)])[0]

    def has_room(self, fields: Mapping[str, str]) -> bool:
        """Whether they are enough to cut a document into passages: a quarter of all."""
        return self.room(fields) * LEAST_ROOM >= self.spec.max_tokens

    def whole(self, text: str, fields: Mapping[str, str]) -> Draft | None:
        """The document as one passage, if it may be short enough for that; its tokens are still to be counted."""
        if len(text) > _SHORT * self.spec.max_tokens or not self._within_bytes(text):
            return None
        outline = outlines.read(text, self.spec.format)
        if outline is outlines.PLAIN:
            passage = text.lstrip()
            start = len(text) - len(passage)
            passage = passage.rstrip()
            return Draft(start, start + len(passage), "", passage, self.render(passage, fields))
        cutter = Cutter(text, outline)
        start = cutter.skip(0)
        return self.draft(cutter, start, cutter.end, fields)

    def draft(self, cutter: Cutter, start: int, end: int, fields: Mapping[str, str]) -> Draft:
        passage = cutter.text[start:end]
        title = cutter.outline.title_at(cutter.visible(start))
        return Draft(start, end, title, passage, self.render(passage, fields))

    def split(self, text: str, fields: Mapping[str, str]) -> list[Chunk] | None:
        """The chunks of a document that is not whole, in order. None where the template leaves less than a quarter
        of the tokens to the passage, or where not even one character fits."""
        return _Walk(self, text, outlines.read(text, self.spec.format), fields).chunks()

    def _within_bytes(self, text: str) -> bool:
        limit = self.spec.max_bytes
        return len(text) * 4 <= limit or len(text.encode()) <= limit


class _Walk:
    """One way through one document."""

    def __init__(self, splitter: Splitter, text: str, outline: Outline, fields: Mapping[str, str]) -> None:
        self._splitter = splitter
        self._spec = splitter.spec
        self._fields = fields
        self._text = text
        self._cutter = Cutter(text, outline)
        self._offsets = splitter.tokenizer.offsets(text).data  # a memoryview: bisect reads it without a copy
        self._budget = splitter.room(fields)
        self._frame = self._spec.max_tokens - self._budget

    def chunks(self) -> list[Chunk] | None:
        if self._budget * LEAST_ROOM < self._spec.max_tokens:
            return None
        chunks: list[Chunk] = []
        start, covered = self._cutter.skip(0), 0
        while start < self._cutter.end:
            chunk = self._fit(start, covered, len(chunks))
            if chunk is None:
                tighter = self._cutter.visible(max(start, covered))  # without overlap or indent
                if tighter == start:
                    return None
                start = tighter
                continue
            if self._splitter.says(chunk.passage):
                chunks.append(chunk)
            covered = chunk.end
            start = self._next(start, covered)
        return chunks

    def _fit(self, start: int, covered: int, ordinal: int) -> Chunk | None:
        """The chunk from `start` that ends after `covered` and keeps the limits; None where there is none."""
        floor = self._cutter.visible(max(start, covered))
        high = self._reach(start)
        while high > floor:
            end = self._end(start, floor, high)
            draft = self._splitter.draft(self._cutter, start, end, self._fields)
            tokens = self._splitter.count([draft.embed])[0]
            if tokens <= self._spec.max_tokens:
                return draft.chunk(ordinal, tokens)
            high = self._lower(start, floor, end, tokens)
        return None

    def _end(self, start: int, floor: int, high: int) -> int:
        """Where the passage from `start` ends best, after `floor` and not after `high`."""
        if high >= self._cutter.end:
            return self._cutter.end
        low = max((start + high) // 2, floor)
        return self._cutter.trimmed(start, self._cutter.cut(floor, low, high))

    def _reach(self, start: int) -> int:
        """How far a window from `start` goes by the tokens of the document and by the bytes of the passage."""
        high = self._place(bisect_left(self._offsets, start) + self._budget)
        limit = self._spec.max_bytes
        high = min(max(high, start + 1), start + limit, self._cutter.end)
        if (high - start) * 4 <= limit or self._text.isascii():
            return high
        return start + len(self._text[start:high].encode()[:limit].decode(errors="ignore"))

    def _place(self, at: int) -> int:
        """Where the document's token number `at` starts; its end past the last one (some texts have no token)."""
        at = max(at, 0)
        return self._offsets[at] if at < len(self._offsets) else self._cutter.end

    def _lower(self, start: int, floor: int, end: int, tokens: int) -> int:
        """A lower bound for the next try, after `end` gave too many tokens; `floor` where nothing is left to try."""
        if end <= floor + 1:
            return floor
        surplus = tokens - self._spec.max_tokens
        by_token = self._place(bisect_left(self._offsets, end) - surplus)
        by_share = start + (end - start) * self._budget // (tokens - self._frame)
        # Several tokens may start at one place, and one may be very long: then the share is the better guess.
        return max(floor + 1, min(by_token if by_token > floor else by_share, end - 1))

    def _next(self, start: int, end: int) -> int:
        """Where the passage after (start, end) starts, overlap included; past the end where nothing is left."""
        place = self._cutter.skip(end)
        overlap = min(self._spec.overlap, self._budget // _MOST_OVERLAP)
        if place >= self._cutter.end or not overlap:
            return place
        low = self._place(bisect_left(self._offsets, end) - overlap)
        if low >= end:
            return place
        return self._cutter.overlap(start, low, end) or place
