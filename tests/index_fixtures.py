"""Vectors with structure (clusters on the sphere), and sources of them, for the index tests."""

import hashlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from embedfill import ids
from embedfill.index.source import Batch, Vectors, VectorSource


def clustered(rows: int, dimensions: int, clusters: int = 200, seed: int = 0, noise: float = 0.8) -> Vectors:
    random = np.random.default_rng(seed)
    centres = random.standard_normal((clusters, dimensions))
    points = centres[random.integers(0, clusters, rows)] + noise * random.standard_normal((rows, dimensions))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def row_ids(rows: int) -> ids.IdArray:
    return ids.array(hashlib.blake2b(str(row).encode(), digest_size=16).digest() for row in range(rows))


def source(vectors: Vectors, batch_rows: int = 5_000) -> VectorSource:
    names = row_ids(len(vectors))

    def batches() -> Iterator[Batch]:
        for at in range(0, len(vectors), batch_rows):
            yield names[at : at + batch_rows], vectors[at : at + batch_rows]

    return VectorSource(batches, len(vectors), vectors.shape[1])


def brute_force(vectors: Vectors, queries: Vectors, k: int) -> np.ndarray:
    """The k nearest rows by float64 products, best first; equal scores by row."""
    scores = queries.astype(np.float64) @ vectors.astype(np.float64).T
    k = min(k, len(vectors))
    best = np.sort(np.argpartition(-scores, k - 1, axis=1)[:, :k], axis=1)
    order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
    return np.take_along_axis(best, order, axis=1)


def documents_batch(names: list[str], metadata: list[str] | None = None) -> pa.RecordBatch:
    return pa.record_batch({"document_id": names, "metadata": metadata or ["{}"] * len(names)})


def places_batch(rows: list[tuple[bytes, int, int, int, int, str]]) -> pa.RecordBatch:
    columns = list(zip(*rows)) or [()] * 6
    kinds = [ids.ID_TYPE, pa.int64(), pa.int32(), pa.int64(), pa.int64(), pa.string()]
    names = ["text_id", "document", "ordinal", "start", "end", "text"]
    return pa.record_batch([pa.array(list(c), t) for c, t in zip(columns, kinds)], names=names)
