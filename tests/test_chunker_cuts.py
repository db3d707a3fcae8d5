"""Where cuts and overlaps fall: the order of preference, and what must not be parted."""

import pytest

from embedfill.chunker.cuts import Cutter
from embedfill.chunker.outline import read


def cutter(text: str, format: str = "auto") -> Cutter:
    return Cutter(text, read(text, format))


def left(text: str, low: int = 0, high: int | None = None, format: str = "auto") -> str:
    """What is left of the best cut."""
    cuts = cutter(text, format)
    return text[: cuts.cut(0, low, len(text) - 1 if high is None else high)].rstrip()


def test_order_of_preference() -> None:
    text = "Intro here.\n\n# Head\n\nOne two. Three four\nfive six"
    assert left(text) == "Intro here."
    assert left(text, text.index("One")) == text[: text.index(" Three")]
    assert left(text, text.index("Three")) == text[: text.index("\nfive")]
    assert left(text, text.index("five")) == text[: text.index(" six")]
    assert left(text, text.index("six")) == text[:-1]


def test_the_heading_goes_with_what_follows() -> None:
    text = "Some text.\n\n# One\n\n## Two\n\nbody body body"
    for high in range(text.index("# One"), text.index("body")):
        assert left(text, 5, high) == "Some text.", high


def test_a_cut_never_falls_into_a_heading() -> None:
    text = "Some text here\n\nA title of words\n================\n\nbody"
    assert left(text, 16, 40) == "Some text here"


def test_bare_headings_alone_still_make_progress() -> None:
    text = "# a\n# b\n# c\n"
    assert cutter(text).cut(0, 1, 5) == 4


def test_blank_lines_that_end_a_block_come_first() -> None:
    text = "first(x)\n\n   Does one.\n   More.\n\nsecond(y)\n\n   Does two things. And more of it"
    assert left(text) == text[: text.index("\n\nsecond")]
    opening = "Some words. Then these::\n\n   an example that goes on"
    assert left(opening) == "Some words."


def test_blank_lines_in_a_fence_are_code() -> None:
    text = "Text before it.\n\n```\na = 1\n\nb = 2\n\nc = 3\n```\n"
    assert left(text, 2, text.index("c = 3")) == "Text before it."
    assert left(text, 16, text.index("c = 3")) == "Text before it."  # the start of the fence


@pytest.mark.parametrize(
    "text, expected",
    [
        ("We saw Dr. Smith and others", "We saw Dr. Smith and"),
        ("Use it. See e.g. Table four", "Use it."),
        ("It was J. Smith alone", "It was J. Smith"),
        ("Done. Then etc. and so on", "Done."),
        ("He said “Stop.” Then left", "He said “Stop.”"),
        ("Really?! Yes", "Really?!"),
        ("Version 3.11 has it", "Version 3.11 has"),
        ("他来了。她走了", "他来了。"),
        ("彼は「行く。」と言", "彼は「行く。」"),
        ("很长的一句话，没有完", "很长的一句话，"),
        ("Go on.\n3. Then stop", "Go on."),
        ("| cell one. | cell two", "| cell one. | cell"),
    ],
)
def test_sentences(text: str, expected: str) -> None:
    assert left(text, 1) == expected


CLUSTERS = {
    "accents": "e\u0301\u0302",
    "joined emoji": "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "skin tone": "\U0001f44d\U0001f3fd",
    "flag": "\U0001f1e9\U0001f1ea",
    "conjoining syllable": "\u1100\u1161\u11a8",
    "presentation selector": "\u2764\ufe0f",
    "thai tone mark": "\u0e01\u0e48",
}


@pytest.mark.parametrize("cluster", CLUSTERS.values(), ids=CLUSTERS)
def test_clusters_stay_whole(cluster: str) -> None:
    text = "x" + cluster * 8
    boundaries = set(range(1, len(text) + 1, len(cluster)))
    for high in range(1 + len(cluster), len(text)):
        assert cutter(text).cut(0, 0, high) in boundaries, high


def test_an_endless_cluster_is_cut_all_the_same() -> None:
    assert cutter("e" + "\u0301" * 500).cut(0, 100, 300) == 300


def test_code_is_cut_where_the_indent_goes_back() -> None:
    text = "def a():\n    x = 1\n\n    y = 2\n\ndef b():\n    z. Q = 3\n\n    return z"
    assert left(text, 9, len(text) - 9, "code") == text[: text.index("\n\ndef b")]
    cuts = cutter(text, "code")
    assert cuts.skip(text.index("\n\n    y")) == text.index("    y = 2")


def test_overlap_starts_at_a_sentence_else_a_line_else_a_word() -> None:
    text = "alpha beta. Gamma delta\nepsilon zeta eta. Theta"
    end = text.index(" Theta")
    cuts = cutter(text)
    assert cuts.overlap(0, 3, end) == text.index("Gamma")
    assert cuts.overlap(0, text.index("Gamma") + 1, end) == text.index("epsilon")
    assert cuts.overlap(0, text.index("epsilon") + 1, end) == text.index("zeta")
    assert cuts.overlap(0, end - 2, end) is None


def test_overlap_never_crosses_a_heading() -> None:
    text = "One sentence. Two of them.\n\n# Head\n\nBody one. Body two."
    cuts = cutter(text)
    head = text.index("# Head")
    assert cuts.overlap(0, 5, text.index("\n\n# Head")) is None
    assert cuts.overlap(0, 5, len("Body one.") + text.index("Body one.")) == head
    assert cuts.overlap(head, head + 2, text.index(" Body two")) == text.index("Body one")
