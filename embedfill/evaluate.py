"""How good a ranking of documents is, against judgements: recall@10, MRR@10, nDCG@10.

Ranks count documents: hits of one document collapse to its best. A document is relevant with a relevance above 0, which
is its gain. A query counts if it was ranked and has at least one relevant document; others are left out, and told.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from embedfill.config import Config
from embedfill.errors import CorpusError, UsageError
from embedfill.records import Hit
from embedfill.retrieve import Retriever

K = 10

Qrels = Mapping[str, Mapping[str, float]]

_RANKING = pa.schema(
    {
        "query_id": pa.string(),
        "rank": pa.int32(),
        "document_id": pa.string(),
        "ordinal": pa.int32(),
        "score": pa.float64(),
    }
)
_WRITTEN_AT_ONCE = 10_000


@dataclass(frozen=True, slots=True)
class Metrics:
    """Means over `queries`. `unjudged` queries were ranked and have no relevant document: they are not in the means."""

    queries: int
    recall_at_10: float
    mrr_at_10: float
    ndcg_at_10: float
    unjudged: int = 0


def evaluate_index(config: Config, queries: Path, qrels: Path, out: Path | None = None) -> Metrics:
    """The metrics of the published index on judged questions. `out`: where to write the ranked hits. Raises
    CorpusError for a file that cannot be used, UsageError where nothing is published or no query counts."""
    retriever = Retriever.open(config)
    if out is not None and out.resolve() in (queries.resolve(), qrels.resolve()):
        raise UsageError(f"--out {out} would overwrite a file that is read", "give another name")
    questions, judgements = read_queries(queries), read_qrels(qrels)
    hits = retriever.search_many([text for _, text in questions], K, by_document=True)
    ranking = list(zip((name for name, _ in questions), hits, strict=True))
    if out is not None:
        write_ranking(out, ranking)
    return evaluate({name: [hit.document_id for hit in found] for name, found in ranking}, judgements)


def evaluate(run: Mapping[str, Sequence[str]], qrels: Qrels) -> Metrics:
    """The metrics of a run: query id to document ids, best first (none: a miss). Raises UsageError if no query counts."""
    relevant = {query: gains for query in run if (gains := _positive(qrels.get(query, {})))}
    if not relevant:
        shown = ", ".join(repr(query) for query in list(run)[:3])
        raise UsageError(f"no query has a relevant document among the judgements (queries: {shown or 'none'})")
    count = len(relevant)
    return Metrics(
        queries=count,
        recall_at_10=math.fsum(recall_at(run[query], gains.keys(), K) for query, gains in relevant.items()) / count,
        mrr_at_10=math.fsum(mrr_at(run[query], gains.keys(), K) for query, gains in relevant.items()) / count,
        ndcg_at_10=math.fsum(ndcg_at(run[query], gains, K) for query, gains in relevant.items()) / count,
        unjudged=len(run) - count,
    )


def recall_at(ranked: Sequence[str], relevant: Iterable[str], k: int) -> float:
    """The part of the relevant documents that is among the first k; 0 where none is relevant."""
    wanted = set(relevant)
    return len(wanted.intersection(_first(ranked, k))) / len(wanted) if wanted else 0.0


def mrr_at(ranked: Sequence[str], relevant: Iterable[str], k: int) -> float:
    """One over the rank of the first relevant document; 0 where none is among the first k."""
    wanted = set(relevant)
    return next((1 / rank for rank, document in enumerate(_first(ranked, k), 1) if document in wanted), 0.0)


def ndcg_at(ranked: Sequence[str], gains: Mapping[str, float], k: int) -> float:
    """Gains discounted by log2(rank + 1), over those of the best order there is (Järvelin and Kekäläinen, 2002)."""
    positive = _positive(gains)
    ideal = _discounted(sorted(positive.values(), reverse=True)[:k])
    return _discounted([positive.get(document, 0.0) for document in _first(ranked, k)]) / ideal if ideal else 0.0


def read_queries(path: Path) -> list[tuple[str, str]]:
    """(query id, text) of a Parquet file with columns query_id and text, in order. Raises CorpusError."""
    table = _read(path, ("query_id", "text"))
    names = _ids(path, table, "query_id")
    texts = _values(path, table, "text", (str,), "text")
    seen: set[str] = set()
    for row, name in enumerate(names):
        if not texts[row].strip():
            raise CorpusError(str(path), f"row {row}: the question is empty", "leave the row out")
        if name in seen:
            raise CorpusError(str(path), f"row {row}: query_id {name!r} stands twice")
        seen.add(name)
    return list(zip(names, texts, strict=True))


def read_qrels(path: Path) -> dict[str, dict[str, float]]:
    """Judgements of a Parquet file with columns query_id, document_id and relevance. Raises CorpusError.

    Where one pair is judged twice, the higher relevance counts.
    """
    table = _read(path, ("query_id", "document_id", "relevance"))
    queries, documents = _ids(path, table, "query_id"), _ids(path, table, "document_id")
    values = _values(path, table, "relevance", (int, float), "a number")
    qrels: dict[str, dict[str, float]] = {}
    for query, document, value in zip(queries, documents, values, strict=True):
        gains = qrels.setdefault(query, {})
        gains[document] = max(float(value), gains.get(document, -math.inf))
    return qrels


def write_ranking(path: Path, ranking: Iterable[tuple[str, Sequence[Hit]]]) -> None:
    """Writes the hits of each query id to a Parquet file: query_id, rank, document_id, ordinal, score."""
    rows: list[tuple[Any, ...]] = []
    try:
        with pq.ParquetWriter(path, _RANKING) as writer:
            for query, hits in ranking:
                rows += [(query, hit.rank, hit.document_id, hit.ordinal, hit.score) for hit in hits]
                if len(rows) >= _WRITTEN_AT_ONCE:
                    writer.write_batch(_batch(rows))
                    rows = []
            writer.write_batch(_batch(rows))
    except OSError as error:
        raise CorpusError(str(path), f"could not be written: {error}") from error


def _first(ranked: Sequence[str], k: int) -> list[str]:
    """The first k distinct documents."""
    return list(dict.fromkeys(ranked))[:k]


def _positive(gains: Mapping[str, float]) -> dict[str, float]:
    return {document: gain for document, gain in gains.items() if gain > 0}


def _discounted(gains: Sequence[float]) -> float:
    return math.fsum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, 1))


def _batch(rows: list[tuple[Any, ...]]) -> pa.RecordBatch:
    columns = list(zip(*rows, strict=True)) or [()] * len(_RANKING)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, _RANKING, strict=True)]
    return pa.record_batch(arrays, schema=_RANKING)


def _read(path: Path, columns: Sequence[str]) -> pa.Table:
    try:
        with pq.ParquetFile(path) as file:
            present = file.schema_arrow.names
            missing = [name for name in columns if name not in present]
            if missing:
                raise CorpusError(str(path), f"no column {missing[0]!r}", f"its columns are {', '.join(present)}")
            return file.read(columns=list(columns))
    except FileNotFoundError:
        raise CorpusError(str(path), "no such file") from None
    except (pa.ArrowException, OSError) as error:
        raise CorpusError(str(path), f"not a readable Parquet file: {error}") from error


def _ids(path: Path, table: pa.Table, name: str) -> list[str]:
    return [str(value) for value in _values(path, table, name, (int, str), "an integer or a string")]


def _values(path: Path, table: pa.Table, name: str, kinds: tuple[type, ...], allowed: str) -> list[Any]:
    """A column as Python values, none missing, all of the kinds allowed."""
    values: list[Any] = table.column(name).to_pylist()
    for row, value in enumerate(values):
        if not isinstance(value, kinds) or value != value:
            raise CorpusError(str(path), f"row {row}: {name} = {value!r}, expected {allowed}")
    return values
