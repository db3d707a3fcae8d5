"""What the directory of an embedding model says about it: tokenizer, longest text, pooling. Loads no weights.

Read as sentence-transformers writes it, as fastembed keeps it in its cache, and as a hub's own cache lays it out.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson

from embedfill.errors import ConfigError, ModelError

Pooling = Literal["mean", "cls", "last"]

_POOLINGS: dict[str, Pooling] = {
    "mean": "mean",
    "cls": "cls",
    "lasttoken": "last",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}
_OWN_PARTS = frozenset({"Transformer", "Pooling", "Normalize"})  # the others are layers with weights of their own
_ONNX_NAMES = ("model.onnx", "onnx/model.onnx", "model_optimized.onnx", "model_quantized.onnx")
_DEFAULT_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Layout:
    """`max_tokens` and `pad` are None where no file tells them; `others` are parts that only the model's own library
    computes."""

    root: Path
    tokenizer: Path
    max_tokens: int | None
    pad: int | None
    pooling_file: Path
    others: tuple[str, ...] = ()

    def pooling(self) -> Pooling | None:
        """None where no file tells it. Raises ModelError for one that we do not compute: another would be another space."""
        config = _table(self.pooling_file)
        named = config.get("pooling_mode", [key for key in config if key.startswith("pooling_mode_") and config[key]])
        modes = [named] if isinstance(named, str) else list(named)
        if not modes:
            return None
        if len(modes) > 1 or modes[0] not in _POOLINGS:
            message = f"{self.root}: pooling {', '.join(map(str, modes))} is none of mean, cls and last token"
            raise ModelError(message, 'use kind = "sentence-transformers"')
        return _POOLINGS[modes[0]]

    def limit(self, name: str, wanted: int | None) -> int:
        """Tokens of a text, special ones included. Raises ConfigError where more are wanted than the model has."""
        if wanted is not None and self.max_tokens is not None and wanted > self.max_tokens:
            raise ConfigError(f"engine.models.{name}.max_tokens", wanted, f"this model takes {self.max_tokens}")
        return wanted or self.max_tokens or _DEFAULT_TOKENS


def read(path: Path) -> Layout:
    """The layout of a model's directory, or of that around one of its ONNX files. Raises ModelError."""
    root = directory(path)
    parts = _list(root / "modules.json")
    encoder = root / str(parts[0].get("path", "")) if parts else root
    tokenizer = encoder / "tokenizer.json"
    if not tokenizer.is_file():
        raise ModelError(f"{tokenizer} is missing", "save the model with its fast tokenizer, which writes this file")
    pooling = next((str(part.get("path")) for part in parts if _kind(part) == "Pooling"), "1_Pooling")
    kinds = [_kind(part) for part in parts]
    return Layout(
        root=root,
        tokenizer=tokenizer,
        max_tokens=_max_tokens(encoder),
        pad=_pad(encoder),
        pooling_file=root / pooling / "config.json",
        others=tuple(kind for kind in kinds if kind not in _OWN_PARTS),
    )


def directory(path: Path) -> Path:
    """Where the files lie. Raises ModelError where there is nothing."""
    if path.is_file():
        return path.parent.parent if path.parent.name == "onnx" else path.parent
    if not path.is_dir():
        raise ModelError(f"{path}: there is no such directory", "give the directory that holds the model's files")
    reference = path / "refs" / "main"  # a hub's cache: snapshots by revision
    return path / "snapshots" / reference.read_text().strip() if reference.is_file() else path


def onnx_file(path: Path) -> Path:
    """The ONNX file of a directory, or the one that was named. Raises ModelError where it is not clear which."""
    if path.is_file():
        return path
    root = directory(path)
    known = next((root / name for name in _ONNX_NAMES if (root / name).is_file()), None)
    if known is not None:
        return known
    found = sorted([*root.glob("*.onnx"), *root.glob("onnx/*.onnx")])
    if len(found) != 1:
        names = ", ".join(str(file.relative_to(root)) for file in found) or "none"
        raise ModelError(f"{root}: no model.onnx (ONNX files: {names})", "give the path of the ONNX file itself")
    return found[0]


def _kind(part: dict[str, Any]) -> str:
    return str(part.get("type", "")).rpartition(".")[2]


def _max_tokens(root: Path) -> int | None:
    """Tokens of a text, special ones included: what the model was trained with, else what its tokenizer is held to."""
    trained = _sizes(_table(root / "sentence_bert_config.json"), "max_seq_length")
    # Not `max_position_embeddings`: it is the size of a table, of which some models use less.
    held = _sizes(_table(root / "tokenizer_config.json"), "model_max_length", "max_length")
    return min(trained or held, default=None)


def _sizes(table: dict[str, Any], *names: str) -> list[int]:
    """Where a limit is not known, tokenizers have 10^30 in its place."""
    values = [table.get(name) for name in names]
    return [value for value in values if type(value) is int and 0 < value < 1 << 31]


def _pad(root: Path) -> int | None:
    padding = _table(root / "tokenizer.json").get("padding") or {}
    found = padding.get("pad_id", _table(root / "config.json").get("pad_token_id"))
    return found if isinstance(found, int) else None


def _table(path: Path) -> dict[str, Any]:
    found = _json(path)
    return found if isinstance(found, dict) else {}


def _list(path: Path) -> list[dict[str, Any]]:
    found = _json(path)
    return [part for part in found if isinstance(part, dict)] if isinstance(found, list) else []


def _json(path: Path) -> object:
    try:
        return orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: {error}", "the file is damaged: get the model again") from error
