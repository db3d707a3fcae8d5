#!/usr/bin/env python3
"""Measures local models on a corpus with judged questions: retrieval quality, and speed side by side.

The folder holds `sections.parquet` (columns id and text; heading where the template asks for it), `queries.parquet`
(query_id and text; kind, where there are several) and `qrels.parquet` (query_id, document_id, relevance). Each section
is embedded as one text, its end cut off at the model's limit, and compared by brute force. The models take turns, block by
block, so that whatever else the machine does hits all of them. A model is a name, or the path of an ONNX directory.

    scripts/score_models.py FOLDER all-MiniLM-L6-v2 all-MiniLM-L6-v2-int8
"""

import argparse
import json
import random
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from embedfill.evaluate import K, mrr_at, read_qrels, recall_at
from embedfill.models.base import Model, Vectors
from embedfill.models.load import load, open_model

_BLOCK = 64  # sections that a model embeds before the next one has its turn
_SEED = 1


@dataclass
class Corpus:
    """Sections and questions; `relevant` maps a question to its sections, `kinds` a kind to its questions."""

    sections: dict[str, str]
    queries: dict[str, str]
    relevant: dict[str, set[str]]
    kinds: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))


@dataclass
class Result:
    model: Model
    vectors: list[Vectors] = field(default_factory=list)
    wall_s: float = 0.0
    cpu_s: float = 0.0
    ranks: dict[str, float] = field(default_factory=dict)  # one over the rank of the right section, by question
    recalls: dict[str, float] = field(default_factory=dict)


def read(folder: Path, template: str, sections: int) -> Corpus:
    """The corpus; with `sections`, all relevant ones and as many others as fit, drawn at random."""
    rows = pq.read_table(folder / "sections.parquet").to_pylist()
    qrels = read_qrels(folder / "qrels.parquet")
    relevant = {query: {name for name, gain in gains.items() if gain > 0} for query, gains in qrels.items()}
    if sections:
        right = set().union(*relevant.values())
        others = [row for row in rows if row["id"] not in right]
        random.Random(_SEED).shuffle(others)
        rows = [row for row in rows if row["id"] in right] + others[: max(0, sections - len(right))]
    asked = [row for row in pq.read_table(folder / "queries.parquet").to_pylist() if relevant.get(row["query_id"])]
    corpus = Corpus(
        {row["id"]: template.format_map(row) for row in rows},
        {row["query_id"]: row["text"] for row in asked},
        relevant,
    )
    for row in asked:
        corpus.kinds[row.get("kind") or "all"].append(row["query_id"])
    return corpus


def measure(models: Sequence[Model], corpus: Corpus) -> list[Result]:
    results = [Result(model) for model in models]
    texts = list(corpus.sections.values())
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))  # blocks of like length, as an engine's
    for start in range(0, len(order), _BLOCK):
        block = [texts[place] for place in order[start : start + _BLOCK]]
        turn = start // _BLOCK % len(results)
        for result in [*results[turn:], *results[:turn]]:
            _embed(result, block)
    names = list(corpus.sections)
    for result in results:
        _rank(result, np.vstack(result.vectors), [names[place] for place in order], corpus)
    return results


def _embed(result: Result, block: Sequence[str]) -> None:
    wall, cpu = time.perf_counter(), time.process_time()
    result.vectors.append(result.model.embed(block))
    result.wall_s += time.perf_counter() - wall
    result.cpu_s += time.process_time() - cpu


def _rank(result: Result, vectors: Vectors, names: Sequence[str], corpus: Corpus) -> None:
    for query, vector in zip(corpus.queries, result.model.embed(list(corpus.queries.values()))):
        best = [names[row] for row in np.argsort(-(vectors @ vector), kind="stable")[:K]]
        result.ranks[query] = mrr_at(best, corpus.relevant[query], K)
        result.recalls[query] = recall_at(best, corpus.relevant[query], K)


def summary(result: Result, first: Result, corpus: Corpus) -> dict[str, Any]:
    """Figures of one model; against the first one by question, with the standard error of the difference."""
    kinds = {}
    for kind, queries in corpus.kinds.items():
        ours = np.array([result.ranks[query] for query in queries])
        change = ours - np.array([first.ranks[query] for query in queries])
        kinds[kind] = {
            "questions": len(queries),
            "mrr_at_10": float(ours.mean()),
            "recall_at_10": float(np.mean([result.recalls[query] for query in queries])),
            "better": int((change > 0).sum()),
            "worse": int((change < 0).sum()),
            "mrr_change": float(change.mean()),
            "mrr_error": float(change.std() / np.sqrt(len(queries))),
        }
    count = len(corpus.sections)
    return {
        "model": result.model.name,
        "texts_per_s": count / result.wall_s,
        "texts_per_cpu_s": count / result.cpu_s,
        "times_as_fast": first.wall_s / result.wall_s,
        "cosine_mean": _cosine(result, first).mean().item(),
        "cosine_min": _cosine(result, first).min().item(),
        "kinds": kinds,
    }


def _cosine(result: Result, first: Result) -> Vectors:
    if result.model.dimensions != first.model.dimensions:
        return np.full(1, np.nan, np.float32)
    return (np.vstack(result.vectors) * np.vstack(first.vectors)).sum(axis=1)


def table(found: Sequence[dict[str, Any]]) -> str:
    lines = [
        "| model | texts/s | of the first | cosine, mean (least) | questions | MRR@10 | change, error | better : worse | recall@10 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in found:
        speed = f"{one['model']} | {one['texts_per_s']:.1f} | {one['times_as_fast']:.2f} × | "
        same = one["cosine_mean"] == one["cosine_mean"]  # else of another length, which compares with nothing
        speed += f"{one['cosine_mean']:.4f} ({one['cosine_min']:.3f})" if same else "–"
        for kind, of in one["kinds"].items():
            change = f"{of['mrr_change']:+.4f} ± {of['mrr_error']:.4f} | {of['better']} : {of['worse']}"
            quality = f"{of['questions']} {kind} | {of['mrr_at_10']:.4f} | {change} | {of['recall_at_10']:.4f}"
            lines.append(f"| {speed} | {quality} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", nargs="+", help="names, or paths of ONNX directories; compared with the first")
    parser.add_argument("--template", default="{text}", help="what is embedded of a section [default: {text}]")
    parser.add_argument("--sections", type=int, default=0, help="take so many, all relevant ones among them [all]")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    models = [
        open_model(Path(name).name, Path(name), threads=given.threads)
        if Path(name).exists()
        else load(name, given.threads)
        for name in given.models
    ]
    corpus = read(given.folder, given.template, given.sections)
    results = measure(models, corpus)
    found = [summary(result, results[0], corpus) for result in results]
    sys.stdout.write((json.dumps(found, indent=1) if given.json else table(found)) + "\n")


if __name__ == "__main__":
    main()
