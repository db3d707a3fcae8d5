"""Builds a search index from a stream of vectors and measures how good it is. Does not publish, and knows no texts.

Two passes over the stream: the first draws the samples (and writes the float16 file), the second adds the rows and finds
the exact neighbours of the queries. So memory holds the index, the training sample and one block of rows, whatever the
corpus. `plan.py` says which index is built for how many rows; `tune.py` how its settings are found.

**recall_at_10** is measured at every build: about 1,000 rows, drawn by a hash and never used for training or tuning, ask;
the truth is exact search over all rows; the row itself is taken out of both lists. If no setting reaches the target and
the vectors fit the memory, the index is built again as Flat, which is exact; else the best is kept with its true recall.

With one FAISS version, one number of threads and one stream, two builds give the same files, byte for byte.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from embedfill.index import faiss_, plan
from embedfill.index.faiss_ import FaissIndex
from embedfill.index.plan import IndexPlan
from embedfill.index.ranker import INDEX_FILE, FlatRanker, ListRanker
from embedfill.index.rerank import RERANK_FILE, RerankFile
from embedfill.index.sample import Sampler
from embedfill.index.source import Vectors, VectorSource, blocks
from embedfill.index.train import train
from embedfill.index.truth import Truth, TruthFinder, measure
from embedfill.index.tune import Setting, tune, wider

METRIC = "cosine"

Progress = Callable[[int], None]


@dataclass(frozen=True)
class BuiltIndex:
    """A built index and its files, by name. `bytes` is their size, `parameters` what a searcher and a reader need."""

    kind: str
    rows: int
    dimensions: int
    metric: str
    recall_at_10: float
    bytes: int
    parameters: dict[str, Any] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)


def build_index(
    source: VectorSource,
    target_recall: float,
    memory_bytes: int,
    workdir: Path,
    threads: int = 0,
    progress: Progress = lambda rows: None,
) -> BuiltIndex:
    """Builds the index of all rows of a source; row numbers are its ids. Writes `workdir/index.faiss` (and rerank.f16).

    `progress` gets the number of rows added since its last call. `threads` 0: all cores that are ours.
    Raises SearchIndexError: vectors that cannot be indexed, or a file that cannot be written.
    """
    faiss_.use_threads(threads)
    workdir.mkdir(parents=True, exist_ok=True)
    chosen = plan.choose(source.rows, source.dimensions, memory_bytes)
    if not chosen.lists:
        return _build_flat(source, chosen, workdir, progress)
    built = _build_lists(source, chosen, target_recall, workdir, progress)
    exact = plan.flat(source.rows, source.dimensions)
    if built.recall_at_10 >= target_recall or exact.resident_bytes > memory_bytes:
        return built
    (workdir / RERANK_FILE).unlink()
    return _build_flat(source, exact, workdir, progress)


def _build_flat(source: VectorSource, chosen: IndexPlan, workdir: Path, progress: Progress) -> BuiltIndex:
    sampler = Sampler(chosen)
    for block in blocks(source):
        sampler.take(block)
    index = train(chosen, sampler.training)
    (truth,) = _fill(index, source, [TruthFinder(sampler.measuring)], progress)
    recall = measure(FlatRanker(index), truth)
    return _built(chosen, recall, {"queries": len(truth.queries)}, index, workdir)


def _build_lists(
    source: VectorSource, chosen: IndexPlan, target: float, workdir: Path, progress: Progress
) -> BuiltIndex:
    sampler = _first_pass(source, chosen, workdir / RERANK_FILE)
    index = train(chosen, sampler.training)
    parameters: dict[str, Any] = {"lists": chosen.lists, "training_rows": len(sampler.training)}
    finders = [TruthFinder(sampler.tuning), TruthFinder(sampler.measuring)]
    del sampler  # the training sample is the largest thing in memory here
    tuning, measuring = _fill(index, source, finders, progress)
    ranker = ListRanker(index, RerankFile(workdir / RERANK_FILE, source.dimensions, mapped=False), 1, 1)
    setting, recall = _settle(ranker, tuning, measuring, target)
    parameters |= {"nprobe": setting.nprobe, "depth": setting.depth, "queries": len(measuring.queries)}
    parameters |= {"tuning_queries": len(tuning.queries), **_drift_signals(index, measuring)}
    return _built(chosen, recall, parameters, index, workdir)


def _first_pass(source: VectorSource, chosen: IndexPlan, rerank: Path) -> Sampler:
    """Draws the samples, and writes all vectors as float16."""
    sampler = Sampler(chosen)
    with rerank.open("wb") as file:
        for block in blocks(source):
            sampler.take(block)
            file.write(block.vectors.astype("<f2").data)
    return sampler


def _fill(index: FaissIndex, source: VectorSource, finders: list[TruthFinder], progress: Progress) -> list[Truth]:
    """Adds all rows to the index, and finds the exact neighbours of the queries on the way."""
    for block in blocks(source):
        index.add_with_ids(block.vectors, np.arange(block.start, block.start + len(block.ids), dtype=np.int64))
        for finder in finders:
            finder.push(block.start, block.vectors)
        progress(len(block.ids))
    return [finder.truth() for finder in finders]


def _settle(ranker: ListRanker, tuning: Truth, measuring: Truth, target: float) -> tuple[Setting, float]:
    """The tuned setting and its measured recall; widened while that is below the target and anything is left to widen."""
    setting = tune(ranker, tuning, target)
    while True:
        ranker.nprobe, ranker.depth = setting.nprobe, setting.depth
        recall = measure(ranker, measuring)
        if recall >= target or setting == wider(ranker, setting):
            return setting, recall
        setting = wider(ranker, setting)


def _drift_signals(index: FaissIndex, measuring: Truth) -> dict[str, float]:
    """Cheap signs, to be compared with those of later rows: how near rows are to a centroid, how uneven the lists are."""
    similarity: Vectors = index.quantizer.search(measuring.queries.vectors, 1)[0]
    return {
        "centroid_similarity": round(float(similarity.mean()), 4) if len(similarity) else 0.0,
        "imbalance": round(float(index.invlists.imbalance_factor()), 4),
    }


def _built(
    chosen: IndexPlan, recall: float, parameters: dict[str, Any], index: FaissIndex, workdir: Path
) -> BuiltIndex:
    files = {INDEX_FILE: workdir / INDEX_FILE}
    faiss_.write(index, files[INDEX_FILE])
    if chosen.lists:
        files[RERANK_FILE] = workdir / RERANK_FILE
    size = sum(path.stat().st_size for path in files.values())
    parameters = {**parameters, "resident_bytes": chosen.resident_bytes}
    return BuiltIndex(chosen.kind, chosen.rows, chosen.dimensions, METRIC, round(recall, 4), size, parameters, files)
