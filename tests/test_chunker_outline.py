"""Headings, fences and kinds of documents: what counts as one and what only looks like it."""

import time

import pytest

from embedfill.chunker.outline import read


def titles(text: str, format: str = "auto") -> list[str]:
    return [heading.title for heading in read(text, format).headings]


MARKDOWN = """# First

text

Second
------
```python
# no heading
```
### Third ##
"""

REST = """.. _label:

*****
Title
*****

Intro.

A section
~~~~~~~~~

   # a comment in an example
   x = 1

Another
=======
"""


def test_markdown_headings_outside_fences() -> None:
    outline = read(MARKDOWN, "auto")
    assert [heading.title for heading in outline.headings] == ["First", "Second", "Third"]
    second = outline.headings[1]
    assert MARKDOWN[second.start : second.end] == "Second\n------"
    (fence,) = outline.fences
    assert MARKDOWN[fence[0] : fence[1]] == "```python\n# no heading\n```"


def test_restructured_headings_with_their_overline() -> None:
    outline = read(REST, "auto")
    assert [heading.title for heading in outline.headings] == ["Title", "A section", "Another"]
    first = outline.headings[0]
    assert REST[first.start : first.end] == "*****\nTitle\n*****"


@pytest.mark.parametrize("text", [MARKDOWN, REST])
def test_line_ends_of_windows(text: str) -> None:
    assert titles(text.replace("\n", "\r\n")) == titles(text)


def test_a_document_that_starts_with_an_overline() -> None:
    outline = read("=====\nTitle that is longer\n=====\n\ntext", "auto")
    assert outline.starts == (0,)
    assert outline.title_at(0) == "Title that is longer"


@pytest.mark.parametrize(
    "text",
    [
        "text\n\n--------------\n\nmore",  # a transition
        "| a | b |\n|---|---|\n| 1 | 2 |",
        "| a\n-----\n",
        "- item\n------\n",
        "====  ====\nA     B\n====  ====\n",
        "first line\nsecond line\n...\n",
        "a rather long line of ordinary text\n\n   indented\n   ~~~~~~~~\n",
        "much longer than what is below\n~~~~\n",
        "a #hashtag\n#another one\n",
    ],
)
def test_what_is_no_heading(text: str) -> None:
    assert titles(text) == []


def test_a_fence_that_is_never_closed_is_none() -> None:
    outline = read("```\n# a\n\n# b\n", "markdown")
    assert outline.fences == ()
    assert [heading.title for heading in outline.headings] == ["a", "b"]


def test_a_longer_fence_holds_a_shorter_one() -> None:
    text = "````\n```\n# inside\n```\n````\n# outside\n"
    assert titles(text) == ["outside"]


def test_formats_are_obeyed_and_auto_decides() -> None:
    code = (
        "import os\n\n# comment\ndef f(x):\n    return os.path(x)\n\n\nclass A:\n    def g(self):\n        return 1\n"
    )
    assert read(code, "auto").kind == "code"
    assert read(code, "code").headings == ()
    assert titles(code, "markdown") == ["comment"]
    assert read(MARKDOWN, "text").kind == "text"
    assert read("Some prose.\n\nMore of it; really.\n", "auto").kind == "markdown"


def test_place_questions() -> None:
    outline = read(MARKDOWN, "auto")
    assert outline.title_at(MARKDOWN.index("text")) == "First"
    assert outline.title_at(0) == "First"
    assert read("x\n\n# a\n", "auto").title_at(0) == ""
    fence = MARKDOWN.index("```python")
    assert not outline.in_fence(fence)
    assert outline.in_fence(fence + 1)


@pytest.mark.parametrize("line", ["# a\n", "a\n===\n\n", "```\n", "~~~~\n", "====\n", "\n", "#", "=", "`"])
def test_time_is_linear(line: str) -> None:
    text = "\n" + line * (300_000 // len(line))
    started = time.process_time()
    read(text, "markdown")
    assert time.process_time() - started < 4  # well under one when nothing else runs
