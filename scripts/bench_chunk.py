#!/usr/bin/env python3
"""Times our chunker against its limit (the tokenizer alone) and against other chunkers, on the same texts and machine.

Every tool runs in a process of its own, the peers in a virtual environment of their own (.venv-bench-chunk), the tools
taking turns; a figure is the median of its turns. Rates are megabytes of UTF-8 text for each second of CPU time, one
thread, after a warm-up on other texts of the kind. All cut to at most 256 tokens of cl100k_base without overlap; ours also with its usual overlap of 32. The
chunks are checked by an independent count: how many are over the limit, and how many are not where they say.
"""

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / ".venv-bench-chunk"
PACKAGES = ["semantic-text-splitter==0.33.1", "chonkie==1.7.0", "toktok-rs==0.3.0"]
MAX_TOKENS = 256
WARM_UP = 4  # one text in so many is chunked before the clock starts
ENCODING = "cl100k_base"

Span = tuple[int | None, str]  # where a chunk starts, if the tool says, and its text
Tool = Callable[[Sequence[str]], list[list[Span]]]


# The tools. Each is made outside of the time that is measured.


def core() -> object:
    import toktok

    return toktok._encoding(ENCODING)


def ours(overlap: int) -> Tool:
    from embedfill.chunker.tables import chunk_documents
    from embedfill.records import ChunkSpec, Document, Source

    spec = ChunkSpec(ENCODING, MAX_TOKENS, overlap, "auto", "{text}", MAX_TOKENS * 16)

    def run(texts: Sequence[str]) -> list[list[Span]]:
        documents = [Document(str(n), text, {}, {}, Source("", n)) for n, text in enumerate(texts)]
        out: list[list[Span]] = []
        for document in documents:  # one at a time, as the peers are called
            rows = chunk_documents([document], spec).rows
            out.append(list(zip(rows["start"].to_pylist(), rows["text"].to_pylist(), strict=True)))
        return out

    return run


def tokenizer_only() -> Tool:
    encoding = core()
    return lambda texts: [[] for text in texts if encoding.encode_batch_to_numpy([text], 1, False)]


def splitter(kind: str, counter: str) -> Tool:
    import semantic_text_splitter

    cls = getattr(semantic_text_splitter, kind)
    if counter == "toktok":
        made = cls.from_callback(core().count, MAX_TOKENS)
    else:
        made = cls.from_tiktoken_model("gpt-4", MAX_TOKENS)
    return lambda texts: [made.chunk_indices(text) for text in texts]


def chonkie(kind: str) -> Tool:
    import chonkie as library
    from chonkie.tokenizer import Tokenizer

    encoding = core()

    class Counter(Tokenizer):
        def count_tokens(self, text: str) -> int:
            return encoding.count(text)

        def encode(self, text: str) -> list[int]:
            return encoding.encode_ordinary(text)

        tokenize = encode

        def decode(self, tokens: Sequence[int]) -> str:
            return encoding.decode(list(tokens))

        def __repr__(self) -> str:
            return "Counter()"

    chunker = getattr(library, kind)(tokenizer=Counter(), chunk_size=MAX_TOKENS)
    return lambda texts: [[(chunk.start_index, chunk.text) for chunk in chunker.chunk(text)] for text in texts]


TOOLS: dict[str, Callable[[], Tool]] = {
    "embedfill": lambda: ours(0),
    "embedfill, overlap 32": lambda: ours(32),
    "tokenizer alone": tokenizer_only,
    "semantic-text-splitter Text": lambda: splitter("TextSplitter", "toktok"),
    "semantic-text-splitter Markdown": lambda: splitter("MarkdownSplitter", "toktok"),
    "semantic-text-splitter Text, own tiktoken": lambda: splitter("TextSplitter", "tiktoken"),
    "chonkie Sentence": lambda: chonkie("SentenceChunker"),
    "chonkie Recursive": lambda: chonkie("RecursiveChunker"),
}
OURS = [name for name in TOOLS if name.startswith("embedfill")]
LIMIT = "tokenizer alone"


# The texts


def english(size: int) -> list[str]:
    """Pages of the sample corpus: prose with headings, lists and examples."""
    import pyarrow.parquet as pq

    pages: dict[str, list[str]] = {}
    for row in pq.read_table(ROOT / "configs/sample/sections.parquet").to_pylist():
        pages.setdefault(row["page"], []).append(f"{row['heading']}\n{'=' * len(row['heading'])}\n\n{row['text']}")
    return take(("\n\n".join(parts) for parts in pages.values()), size)


def code(size: int) -> list[str]:
    """Modules of the standard library of this Python."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    return take((path.read_text(encoding="utf-8") for path in files), size)


def han(size: int) -> list[str]:
    """Random Han characters with a full stop here and there: no word is known to any tokenizer."""
    draw = random.Random(1)
    letters = [chr(point) for point in range(0x4E00, 0x9FA5)] + ["。"] * 500 + ["\n"] * 100
    return take(("".join(draw.choices(letters, k=5_000)) for _ in iter(int, 1)), size)


def take(texts: Iterable[str], size: int) -> list[str]:
    """Texts until they are `size` bytes; fewer if there are no more."""
    taken, total = [], 0
    for text in texts:
        if total >= size:
            break
        taken.append(text)
        total += len(text.encode())
    return taken


# A worker: one tool, one turn, in a process of its own


def work(name: str, corpus: Path) -> dict[str, float]:
    everything = json.loads(corpus.read_text())
    texts = [text for at, text in enumerate(everything) if at % WARM_UP]
    tool = TOOLS[name]()
    tool(everything[::WARM_UP])  # a long run's tokenizer has seen most words
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    chunks = tool(texts)
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "peak_mb": peak / 1024, "grown_mb": (peak - before) / 1024} | judge(texts, chunks)


def judge(texts: Sequence[str], chunks: list[list[Span]]) -> dict[str, float]:
    """Counts, over the limit by an independent count, and chunks that are not at the place they name."""
    count = core().count
    flat = [(text, start, passage) for text, group in zip(texts, chunks, strict=False) for start, passage in group]
    over = sum(count(passage) > MAX_TOKENS for _, _, passage in flat)
    wrong = sum(start is None or text[start : start + len(passage)] != passage for text, start, passage in flat)
    return {"chunks": len(flat), "over_limit": over, "wrong_offsets": wrong}


# The contest


def make_peers() -> Path:
    python = PEERS / "bin" / "python"
    done = PEERS / ".done"
    if not done.exists() or done.read_text() != "\n".join(PACKAGES):
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(PEERS)], check=True)
        subprocess.run([python, "-m", "pip", "install", "-qq", "--disable-pip-version-check", *PACKAGES], check=True)
        done.write_text("\n".join(PACKAGES))
    return python


def turn(name: str, corpus: Path, peers: Path) -> dict[str, float]:
    python = sys.executable if name in OURS or name == LIMIT else str(peers)
    command = [python, __file__, "--worker", name, "--corpus", str(corpus)]
    env = os.environ | {"TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1"}
    return dict(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, env=env).stdout))


def contest(
    texts: list[str], names: Sequence[str], turns: int, peers: Path, folder: Path
) -> dict[str, dict[str, float]]:
    """Each tool's medians on one set of texts."""
    corpus = folder / "corpus.json"
    corpus.write_text(json.dumps(texts))
    megabytes = sum(len(text.encode()) for at, text in enumerate(texts) if at % WARM_UP) / 1e6
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(turns):
        for name in names:
            runs[name].append(turn(name, corpus, peers))
    return {name: summary(found, megabytes) for name, found in runs.items()}


def summary(runs: list[dict[str, float]], megabytes: float) -> dict[str, float]:
    middle = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    rate = megabytes / max(middle.pop("seconds"), 1e-9)
    return {"mb_per_s": round(rate, 1)} | {key: round(value, 1) for key, value in middle.items()}


def report(results: dict[str, dict[str, dict[str, float]]]) -> dict[str, object]:
    """One object: ours, peers, limits, ratios (our rate over theirs), peak memory."""

    def rates(names: Iterable[str]) -> dict[str, object]:
        return {name: {kind: found[name] for kind, found in results.items()} for name in names}

    def ratio(kind: str, name: str) -> float:
        return round(results[kind]["embedfill"]["mb_per_s"] / results[kind][name]["mb_per_s"], 2)

    first = next(iter(results.values()))
    others = [name for name in first if name != "embedfill"]
    return {
        "unit": "MB of UTF-8 text per CPU second, one thread",
        "ours": rates(name for name in first if name in OURS),
        "peers": rates(name for name in first if name not in OURS and name != LIMIT),
        "limits": rates([LIMIT]),
        "ratios": {name: {kind: ratio(kind, name) for kind in results} for name in others},
        "peak_mb": {kind: found["embedfill"]["peak_mb"] for kind, found in results.items()},
    }


def table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    rows = [f"{'MB/s of CPU time':44}" + "".join(f"{kind:>28}" for kind in results)]
    for name in next(iter(results.values())):
        cells = [
            f"{r['mb_per_s']:.1f} ({r['over_limit']:.0f} over, {r['wrong_offsets']:.0f} wrong)"
            for r in (found[name] for found in results.values())
        ]
        rows.append(f"{name:44}" + "".join(f"{cell:>28}" for cell in cells))
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="less text and fewer turns: under a minute")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--corpus", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(work(options.worker, options.corpus)))
        return
    size, turns = (600_000, 3) if options.quick else (4_000_000, 5)
    peers = make_peers()
    results = {}
    for make in (english, code, han):
        results[make.__name__] = contest(make(size), list(TOOLS), turns, peers, PEERS)
    print(json.dumps(report(results)) if options.json else table(results))


if __name__ == "__main__":
    main()
