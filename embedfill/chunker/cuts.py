"""Finds where a document is best cut, and where an overlap best starts. Counts no tokens.

A cut is a position whose left side is a passage's end; white space around it belongs to nobody.
"""

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator

from embedfill.chunker.outline import Outline

_NON_SPACE = re.compile(r"\S")
_BLANK = re.compile(r"\n[ \t\r]*\n\s*")
_SENTENCE = re.compile(r"(?<![.!?…])[.!?…]++[\"'”’»)\]*_`]*+(?=\s)|[。！？｡]++[」』”’）】》]*+")
_LAST_WORD = re.compile(r"([^\W\d_]+(?:\.[^\W\d_]+)*|\d+)\.\Z")
_ABBREVIATIONS = re.compile(
    r"e\.g|i\.e|cf|vs|viz|al|approx|dept|est|figs?|eqs?|secs?|ch|chap|vol|nos?|pp?|eds?|dr|mrs?|ms|prof|st|jr|sr|rev|gen"
    r"|col|sgt|capt|lt|gov|sen|rep|inc|ltd|co|corp|resp|incl|mt",
    re.IGNORECASE,
)
_WORD_ENDS = " \t\u3000"  # a cut before one of these, or after one of the next, parts no word
_CLAUSE_ENDS = "，、；："
_BLANK_REACH = 200  # characters past the window that a blank line's end is looked for in
_LONGEST_INDENT = 64
_LONGEST_CLUSTER = 64
_ZWJ = "\u200d"


class Cutter:
    """The cuts of one document."""

    def __init__(self, text: str, outline: Outline) -> None:
        self.text = text
        self.outline = outline
        self.end = len(text.rstrip())

    def visible(self, position: int) -> int:
        """The first character from `position` on that is no white space; the length of the text if there is none."""
        found = _NON_SPACE.search(self.text, position)
        return found.start() if found else len(self.text)

    def skip(self, position: int) -> int:
        """Where the next passage starts from `position` on: at a visible character, in code at its line's indent."""
        start = self.visible(position)
        if self.outline.kind == "code" and start < len(self.text):
            line = self.text.rfind("\n", position, start) + 1
            if (line or position == 0) and start - line <= _LONGEST_INDENT:
                return line
        return start

    def trimmed(self, start: int, end: int) -> int:
        """`end` without the white space before it."""
        return start + len(self.text[start:end].rstrip())

    def cut(self, floor: int, low: int, high: int) -> int:
        """The best cut in (low, high]; `floor` <= low is what a cut has to lie after in any case."""
        position = self._find(low, high)
        return self._before_heading(position, floor)

    def overlap(self, start: int, low: int, end: int) -> int | None:
        """Where the next passage may start so that it repeats the end of (start, end): from `low` on, never across
        a heading. None where nothing suits."""
        heading = self.outline.last_heading(self.visible(end))
        if heading is not None and heading.start >= low:
            return heading.start if start < heading.start < end else None
        low = max(low, start + 1, heading.end if heading else 0)
        for position in self._overlaps(low, end):
            place = self.skip(position)
            if place < end:
                return place
        return None

    def _find(self, low: int, high: int) -> int:
        found = self._heading(low, high)
        if found:
            return found
        paragraph, opening = self._blank(low, high)
        return (
            paragraph
            or self._fence(low, high)
            or (self._sentence(low, high) if self.outline.kind != "code" else 0)
            or opening
            or self._newline(low, high)
            or self._word(low, high)
            or self._cluster(low, high)
        )

    def _heading(self, low: int, high: int) -> int:
        heading = self.outline.last_heading(high)
        return heading.start if heading is not None and heading.start > low else 0

    def _fence(self, low: int, high: int) -> int:
        at = bisect_right(self.outline.fences, (high, high)) - 1
        return self.outline.fences[at][0] if at >= 0 and self.outline.fences[at][0] > low else 0

    def _blank(self, low: int, high: int) -> tuple[int, int]:
        """The last blank line that ends a block (after it the text is less indented, or else as much as before), and
        the last one that only opens an indented block, which belongs to the line above it."""
        best = [0, 0, 0]
        reach = min(len(self.text), high + _BLANK_REACH)
        for match in _BLANK.finditer(self.text, low + 1, reach):
            position = match.start()
            if position > high:
                break
            if not self.outline.in_fence(position):
                best[self._step(position, match.end())] = position
        return best[0] or best[1], best[2]

    def _step(self, position: int, after: int) -> int:
        """0 where the line after a blank line is indented less than the one before it, 1 as much, 2 more."""
        line = self.text.rfind("\n", 0, position) + 1
        found = _NON_SPACE.search(self.text, line, position)
        before = found.start() - line if found else 0
        indent = after - (self.text.rfind("\n", position, after) + 1)
        return 0 if indent < before else 1 if indent == before else 2

    def _sentence(self, low: int, high: int) -> int:
        ends = [end for end in self._sentence_ends(low, high) if end > low]
        return next((end for end in reversed(ends) if self._is_sentence_end(end)), 0)

    def _sentence_ends(self, low: int, high: int) -> Iterator[int]:
        for match in _SENTENCE.finditer(self.text, low, min(len(self.text), high + 1)):
            if match.end() <= high:
                yield match.end()

    def _is_sentence_end(self, end: int) -> bool:
        """Not after an abbreviation, an initial or a list number; not before a small letter; not in a table's cell or
        a fence."""
        after = _NON_SPACE.search(self.text, end, end + _LONGEST_INDENT)
        if after and after[0] == "|":
            return False
        if self.text[end - 1] == ".":
            word = _LAST_WORD.search(self.text[max(0, end - 24) : end])
            if word and (_ABBREVIATIONS.fullmatch(word[1]) or self._is_label(word[1], end)):
                return False
            if after and after[0].islower():
                return False
        return not self.outline.in_fence(end)

    def _is_label(self, word: str, end: int) -> bool:
        """An initial ("J. Smith"), or a number or letter that starts a line ("3. Then ...")."""
        if len(word) == 1 and word.isupper():
            return True
        if len(word) > 3 or not word.isdigit():
            return False
        before = self.text[max(0, end - _LONGEST_INDENT) : end - 1 - len(word)]
        return not before.rpartition("\n")[2].strip()

    def _newline(self, low: int, high: int) -> int:
        return max(self.text.rfind("\n", low + 1, high + 1), 0)

    def _word(self, low: int, high: int) -> int:
        before = max(self.text.rfind(mark, low + 1, high + 1) for mark in _WORD_ENDS)
        after = max(self.text.rfind(mark, low, high) for mark in _CLAUSE_ENDS)
        return max(before, after + 1, 0)

    def _cluster(self, low: int, high: int) -> int:
        """The last place that parts no character from its accents or joiners, if one is near; else `high`."""
        for position in range(high, max(low, high - _LONGEST_CLUSTER), -1):
            if _parts_no_cluster(self.text, position):
                return position
        return high

    def _before_heading(self, position: int, floor: int) -> int:
        """`position`, or the start of the headings right before it: a passage does not end with a bare heading."""
        cut = position
        while (heading := self.outline.last_heading(cut - 1)) is not None:
            if heading.end < cut and _NON_SPACE.search(self.text, heading.end, cut):
                break
            if heading.start <= floor:  # headings all the way: better bare ones than no progress
                return position
            cut = heading.start
        return cut

    def _overlaps(self, low: int, end: int) -> Iterator[int]:
        """Places after which an overlap may start, best kind first, within a kind the longest overlap first."""
        if self.outline.kind != "code":
            ends = [place for place in self._sentence_ends(low, end) if self._is_sentence_end(place)]
            blanks = [match.start() for match in _BLANK.finditer(self.text, low, end)]
            yield from sorted(ends + blanks)[:2]
        yield from self._firsts("\n", low, end)
        if self.outline.kind != "code":
            yield from self._firsts(" ", low, end)

    def _firsts(self, mark: str, low: int, end: int) -> Iterator[int]:
        position = self.text.find(mark, low - 1, end)
        if position >= 0:
            yield position


def _parts_no_cluster(text: str, position: int) -> bool:
    """Whether a cut here leaves accents, joiners, flags and syllables whole. A small part of Unicode's UAX #29."""
    if position >= len(text):
        return True
    after, before = text[position], text[position - 1]
    if after < "\u0300" and before < "\u0300":
        return True
    if before == _ZWJ or after == _ZWJ or unicodedata.category(after) in ("Mn", "Me", "Mc"):
        return False
    if "\U0001f3fb" <= after <= "\U0001f3ff" or "\U000e0020" <= after <= "\U000e007f" or "\u1160" <= after <= "\u11ff":
        return False
    if _is_flag_half(after) and _is_flag_half(before):
        return _flag_halves_before(text, position) % 2 == 0
    return True


def _is_flag_half(character: str) -> bool:
    return "\U0001f1e6" <= character <= "\U0001f1ff"


def _flag_halves_before(text: str, position: int) -> int:
    halves = 0
    while halves < _LONGEST_CLUSTER and halves < position and _is_flag_half(text[position - 1 - halves]):
        halves += 1
    return halves
