"""Finds the headings and fenced blocks of a document, and what kind of text it is. Does not parse Markdown further.

Headings are those of Markdown (`# Title`, or underlined) and of reStructuredText (underlined, also overlined).
"""

import re
from bisect import bisect_right
from dataclasses import dataclass, field

_ATX = re.compile(r"^#{1,6}[ \t]+(\S.*)$", re.MULTILINE)
_UNDERLINE = re.compile(r"\n(?P<run>([=\-~^\"'`:.+#*_])\2{2,})[ \t\r]*(?=\n|\Z)")
_RUN = re.compile(r"([=\-~^\"'`:.+#*_])\1{2,}[ \t\r]*\Z")
_NO_TITLE = re.compile(r"[|+>]|[-*][ \t]")  # tables, quotations, list items
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})(.*)$", re.MULTILINE)
_CODE_LINE = re.compile(
    r"\s*(?:def |class |import |from \S+ import |return\b|elif |else:|try:|except\b|@\w|#include|public |private "
    r"|static |const |let |var |func |function |fn |package |namespace |if ?\(|for ?\(|while ?\(|[{}])|.*[{};]\s*\Z"
)
_CODE_SAMPLE = 20_000  # characters that decide whether a document is code
_CODE_SHARE = 0.3
_LONGEST_TITLE = 200
_UNDERLINED_SHARE = 0.8  # of the title's length: authors do not count exactly


@dataclass(frozen=True, slots=True)
class Heading:
    """`start` is where its first line begins (an overline counts), `end` where its last line ends."""

    start: int
    end: int
    title: str


@dataclass(frozen=True, slots=True)
class Outline:
    """`kind` is text, markdown or code. Headings and fences (start, end) are in order; no heading is in a fence."""

    kind: str
    headings: tuple[Heading, ...] = ()
    starts: tuple[int, ...] = ()
    fences: tuple[tuple[int, int], ...] = field(default=())

    def last_heading(self, position: int) -> Heading | None:
        """The last heading that starts at or before `position`."""
        at = bisect_right(self.starts, position)
        return self.headings[at - 1] if at else None

    def title_at(self, position: int) -> str:
        heading = self.last_heading(position)
        return heading.title if heading else ""

    def in_fence(self, position: int) -> bool:
        """Whether `position` is inside a fenced block, and not at its very start or end."""
        at = bisect_right(self.fences, (position,)) - 1
        return at >= 0 and self.fences[at][0] < position < self.fences[at][1]


PLAIN = Outline("text")
_CODE = Outline("code")


def read(text: str, format: str) -> Outline:
    """The outline of a document. `format` is text, markdown, code or auto (decided from the text)."""
    if format == "text" or "\n" not in text:
        return PLAIN
    underlined = _underlined(text) if format != "code" else []
    if format == "code" or (format == "auto" and not underlined and looks_like_code(text)):
        return _CODE
    fences = _fences(text)
    headings = _without_overlap([*_atx(text), *underlined])
    bare = Outline("markdown", fences=fences)
    kept = tuple(heading for heading in headings if not fences or not bare.in_fence(heading.start + 1))
    return Outline("markdown", kept, tuple(heading.start for heading in kept), fences)


def looks_like_code(text: str) -> bool:
    """Whether a good part of the lines reads like a programming language's."""
    lines = [line for line in text[:_CODE_SAMPLE].split("\n") if line and not line.isspace()]
    hits = sum(1 for line in lines if _CODE_LINE.match(line))
    return hits >= _CODE_SHARE * len(lines) and hits > 1


def _fences(text: str) -> tuple[tuple[int, int], ...]:
    """Closed fenced blocks. One that is never closed is none: the rest of a document should not hang on a typo."""
    fences, opened, start = [], "", 0
    if "```" not in text and "~~~" not in text:
        return ()
    for match in _FENCE.finditer(text):
        marks, rest = match[1], match[2]
        if not opened:
            opened, start = marks, match.start()
        elif marks.startswith(opened) and not rest.strip():
            fences.append((start, match.end()))
            opened = ""
    return tuple(fences)


def _atx(text: str) -> list[Heading]:
    if "#" not in text:
        return []
    return [_heading(m.start(), m.end(), m[1].rstrip().rstrip("#")) for m in _ATX.finditer(text)]


def _underlined(text: str) -> list[Heading]:
    """Titles of one line over a line of one punctuation mark, at the left margin, after a blank line or an overline."""
    headings = []
    for match in _UNDERLINE.finditer(text):
        begin = text.rfind("\n", 0, match.start()) + 1
        title = text[begin : match.start()]
        start = _title_start(text, begin, title, match["run"])
        if start is not None:
            headings.append(_heading(start, match.end(), title))
    return headings


def _title_start(text: str, begin: int, title: str, run: str) -> int | None:
    """Where the heading starts (its overline, if it has one); None where this is no title."""
    if not title.strip() or len(title) > _LONGEST_TITLE or _RUN.match(title) or _NO_TITLE.match(title):
        return None
    above_at = text.rfind("\n", 0, begin - 1) + 1 if begin else 0
    above = text[above_at : max(begin - 1, 0)]
    if above.rstrip() == run:
        return above_at
    if above.strip() or title[0].isspace():
        return None
    return begin if run[0] in "=-" or len(run) >= _UNDERLINED_SHARE * len(title) else None


def _heading(start: int, end: int, title: str) -> Heading:
    return Heading(start, end, title.strip()[:_LONGEST_TITLE])


def _without_overlap(headings: list[Heading]) -> list[Heading]:
    """In order, without those that start inside another (a title that is marked twice)."""
    kept: list[Heading] = []
    for heading in sorted(headings, key=lambda heading: (heading.start, -heading.end)):
        if not kept or heading.start >= kept[-1].end:
            kept.append(heading)
    return kept
