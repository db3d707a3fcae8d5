"""Embedding models as ONNX files, run by ONNX Runtime on a GPU where it has one. Downloads nothing."""

import functools
import mmap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from embedfill import cores
from embedfill.errors import ModelError
from embedfill.models import layout
from embedfill.models.base import Vectors
from embedfill.models.devices import PROVIDERS, choose, of_providers
from embedfill.models.encoder import ALONE, CPU_TOKENS, GPU_TOKENS, Encoder, Ids
from embedfill.models.files import INSTALL_HINT
from embedfill.models.layout import Pooling
from embedfill.models.tokenizers import FileTokenizer

_VECTORS = "sentence_embedding"  # the output that some exports pool themselves
_TOKENS = ("last_hidden_state", "token_embeddings")
_DTYPES = {"tensor(int64)": "int64", "tensor(int32)": "int32"}


class OnnxForward:
    """A forward pass of an ONNX file, or of a `graph` made from it. Safe to call from several threads."""

    def __init__(
        self,
        path: Path,
        pooling: Pooling | None,
        threads: int = 0,
        device: str = "auto",
        graph: bytes | None = None,
    ) -> None:
        self._path = path
        self._pooling = pooling
        self._session, self.device = session(path, threads, device, graph)
        self._inputs = {entry.name: _dtype(path, entry) for entry in self._session.get_inputs()}
        self._output = _output([entry.name for entry in self._session.get_outputs()])
        self.pools = self._output == _VECTORS  # by itself, as its makers do

    def __call__(self, ids: Ids, mask: Ids) -> Vectors:
        values = {
            "input_ids": ids,
            "attention_mask": mask,
            "token_type_ids": np.zeros_like(ids),
            "position_ids": np.broadcast_to(np.arange(ids.shape[1]), ids.shape),
        }
        feed = {name: np.ascontiguousarray(values[name], dtype) for name, dtype in self._inputs.items()}
        with explained(self._path):
            (found,) = self._session.run([self._output], feed)
        if found.ndim == 2:
            return np.asarray(found, np.float32)
        if self._pooling is None:
            raise ModelError(
                f"{self._path}: no file beside it tells how to make one vector of its tokens'",
                'say so: pooling = "mean", "cls" or "last", as the model was trained',
            )
        return pool(np.asarray(found, np.float32), mask, self._pooling)


def open_onnx(
    name: str, path: Path, max_tokens: int | None, pooling: Pooling | None, threads: int, device: str
) -> Encoder:
    """The model in a directory, or of one ONNX file in it. Raises ModelError, ConfigError."""
    found = layout.read(path)
    limit = found.limit(name, max_tokens)
    file = layout.onnx_file(path)
    forward = OnnxForward(file, pooling or found.pooling(), threads, device)
    if found.others and not forward.pools:
        raise ModelError(
            f"{file} lacks the model's part {', '.join(found.others)}", 'use kind = "sentence-transformers"'
        )
    budget = ALONE if rounds_inputs(file) else CPU_TOKENS if forward.device == "cpu" else GPU_TOKENS
    tokenizer = FileTokenizer(name, found.tokenizer)
    return Encoder(name, tokenizer, forward, limit, found.pad or 0, budget, forward.device)


def rounds_inputs(path: Path) -> bool:
    """Whether a graph rounds what goes into its products over the range of the whole pass ("dynamic quantisation"): a
    text's vector then depends on what stands beside it. Kinds of nodes stand in the file as they are written."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return data.find(b"DynamicQuantize") >= 0


def pool(tokens: Vectors, mask: Ids, pooling: Pooling) -> Vectors:
    """One vector of each text from those of its tokens, shape (texts, tokens, dimensions). Padding is at the end."""
    if pooling == "cls":
        return tokens[:, 0]
    if pooling == "last":
        return np.asarray(tokens[np.arange(len(tokens)), mask.sum(axis=1) - 1], np.float32)
    weights = mask.astype(np.float32)
    sums = np.einsum("btd,bt->bd", tokens, weights)
    return np.asarray(sums / weights.sum(axis=1, keepdims=True), np.float32)


def session(path: Path, threads: int, device: str, graph: bytes | None = None) -> tuple[Any, str]:
    """A session of ONNX Runtime, and the device that it runs on. Raises ModelError, ConfigError."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ModelError(f"{path} needs the package onnxruntime", INSTALL_HINT) from error
    wanted = choose(device, of_providers(onnxruntime.get_available_providers()))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores.threads(threads)
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    providers = list(dict.fromkeys((PROVIDERS[wanted], PROVIDERS["cpu"])))
    with explained(path):
        opened = onnxruntime.InferenceSession(graph or str(path), options, providers=providers)
    # A build for GPUs offers one on every machine; where none is, the session falls back.
    used = next(iter(of_providers(opened.get_providers())), "cpu")
    if device not in ("auto", used):
        raise ModelError(f"{path} runs on {used}: ONNX Runtime could not use {device}", "look at its driver")
    return opened, used


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """ONNX Runtime's own errors, which have no common class, as ModelError."""
    try:
        yield
    except _kinds() as error:
        raise ModelError(f"{path}: {error}", "the file is damaged, or made for another ONNX Runtime") from error


@functools.cache
def _kinds() -> tuple[type[Exception], ...]:
    from onnxruntime.capi import onnxruntime_pybind11_state as native

    return tuple(kind for kind in vars(native).values() if isinstance(kind, type) and issubclass(kind, Exception))


def _dtype(path: Path, entry: Any) -> str:  # noqa: ANN401 - onnxruntime has no types
    if entry.name not in ("input_ids", "attention_mask", "token_type_ids", "position_ids") or entry.type not in _DTYPES:
        raise ModelError(
            f"{path} needs an input {entry.name!r} ({entry.type})", "export it for feature extraction, without a cache"
        )
    return _DTYPES[entry.type]


def _output(names: Sequence[str]) -> str:
    return next((name for name in (_VECTORS, *_TOKENS) if name in names), names[0])
