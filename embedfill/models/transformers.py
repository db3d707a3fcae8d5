"""Embedding models that the sentence-transformers library runs, with all their parts. Reads a local directory only.

Texts are tokenized by us, from the model's `tokenizer.json`: counts are exact, and a prompt is the client's affair.
"""

from pathlib import Path
from typing import Any

import numpy as np

from embedfill import cores
from embedfill.errors import ModelError
from embedfill.models import layout
from embedfill.models.base import Vectors
from embedfill.models.devices import choose
from embedfill.models.encoder import CPU_TOKENS, GPU_TOKENS, Encoder, Ids
from embedfill.models.tokenizers import FileTokenizer

_HINT = 'pip install "embedfill[sentence-transformers]"'


class TransformerForward:
    """A forward pass through all parts of a model. Safe to call from several threads."""

    def __init__(self, path: Path, threads: int = 0, device: str = "auto") -> None:
        try:
            import torch
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise ModelError(f"{path} needs the package {error.name}", _HINT) from error
        self._torch = torch
        self.device = choose(device, offered(torch))
        torch.set_num_threads(cores.threads(threads))
        try:
            self._model = SentenceTransformer(str(path), device=_name(self.device), local_files_only=True)
        except (OSError, ValueError, KeyError, RuntimeError, ImportError, TypeError) as error:
            raise ModelError(f"{path}: {error}", "give a directory that sentence-transformers has saved") from error
        self._model.eval()

    def __call__(self, ids: Ids, mask: Ids) -> Vectors:
        torch, device = self._torch, _name(self.device)
        features = {name: torch.from_numpy(value).to(device) for name, value in _features(ids, mask)}
        with torch.inference_mode():
            found = self._model(features)["sentence_embedding"]
        return np.asarray(found.float().cpu().numpy(), np.float32)


def open_transformer(name: str, path: Path, max_tokens: int | None, threads: int, device: str) -> Encoder:
    """The model in a directory. Raises ModelError, ConfigError."""
    found = layout.read(path)
    limit = found.limit(name, max_tokens)
    forward = TransformerForward(found.root, threads, device)
    budget = CPU_TOKENS if forward.device == "cpu" else GPU_TOKENS
    return Encoder(name, FileTokenizer(name, found.tokenizer), forward, limit, found.pad or 0, budget, forward.device)


def offered(torch: Any) -> list[str]:  # noqa: ANN401 - torch may be missing
    """The devices that this build of torch finds in the machine."""
    found = []
    if torch.cuda.is_available():
        found.append("rocm" if torch.version.hip else "cuda")
    mps = getattr(torch.backends, "mps", None)
    return [*found, "mps"] if mps is not None and mps.is_available() else found


def _name(device: str) -> str:
    """What torch calls it: its build for ROCm says `cuda` too."""
    return "cuda" if device == "rocm" else device


def _features(ids: Ids, mask: Ids) -> list[tuple[str, Ids]]:
    return [("input_ids", ids), ("attention_mask", mask)]
