"""Directories of embedding models, made here: MiniLM in the layouts of other tools, and tiny graphs of known answers."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embedfill.models import minilm
from embedfill.models.files import checked_file
from embedfill.models.tokenizers import _DATA

TOKENIZER = _DATA / minilm.NAME / "tokenizer.json"
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "alpha", "beta", "gamma", "delta")
TABLE = np.random.default_rng(5).normal(size=(len(WORDS), 4)).astype(np.float32)
PLACES = np.random.default_rng(6).normal(size=(32, 4)).astype(np.float32)


def write(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def fastembed_directory(root: Path) -> Path:
    """MiniLM as fastembed keeps a model: flat, and no file tells the pooling."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "model.onnx").symlink_to(checked_file(minilm.PACKAGE, minilm.FILE, minilm.SHA256))
    (root / "tokenizer.json").symlink_to(TOKENIZER)
    write(root / "config.json", {"pad_token_id": 0, "model_type": "bert"})
    write(root / "tokenizer_config.json", {"model_max_length": 256, "pad_token": "[PAD]"})
    write(root / "special_tokens_map.json", {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"})
    return root


def transformers_directory(root: Path, **pooling: object) -> Path:
    """MiniLM as sentence-transformers writes a model and its export."""
    (root / "onnx").mkdir(parents=True)
    (root / "onnx" / "model.onnx").symlink_to(checked_file(minilm.PACKAGE, minilm.FILE, minilm.SHA256))
    (root / "tokenizer.json").symlink_to(TOKENIZER)
    write(root / "tokenizer_config.json", {"model_max_length": 512})
    write(root / "sentence_bert_config.json", {"max_seq_length": 256, "do_lower_case": False})
    write(
        root / "1_Pooling/config.json", pooling or {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    )
    write(root / "modules.json", modules("Transformer", "Pooling", "Normalize"))
    return root


def modules(*kinds: str) -> list[dict[str, Any]]:
    names = [f"{place}_{kind}" if place else "" for place, kind in enumerate(kinds)]
    return [{"type": f"sentence_transformers.models.{kind}", "path": name} for kind, name in zip(kinds, names)]


def tiny_directory(
    root: Path,
    inputs: Sequence[str] = ("input_ids", "attention_mask"),
    output: str = "last_hidden_state",
    dtype: str = "INT64",
    template: bool = True,
    **pooling: object,
) -> Path:
    """A model of eight words whose token vectors are `TABLE`, with `PLACES` added where it takes positions."""
    import onnx

    helper, kind = onnx.helper, getattr(onnx.TensorProto, dtype)
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["words"])]
    found = "words"
    if "position_ids" in inputs:
        nodes.append(helper.make_node("Gather", ["places", "position_ids"], ["at"]))
        nodes.append(helper.make_node("Add", ["words", "at"], [found := "sum"]))
    if output == "sentence_embedding":
        nodes.append(helper.make_node("ReduceMax", [found], [found := "most"], axes=[1], keepdims=0))
    nodes.append(helper.make_node("Identity", [found], [output]))
    shape = ["texts", 4] if output == "sentence_embedding" else ["texts", "tokens", 4]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, kind, ["texts", "tokens"]) for name in inputs],
        [helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, shape)],
        [onnx.numpy_helper.from_array(TABLE, "table"), onnx.numpy_helper.from_array(PLACES, "places")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    root.mkdir(parents=True)
    onnx.save(model, str(root / "model.onnx"))
    _tokenizer(template).save(str(root / "tokenizer.json"))
    if pooling:
        write(root / "1_Pooling/config.json", pooling)
    return root


def _tokenizer(template: bool) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    core = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.add_special_tokens(list(WORDS[:4]))
    if template:
        ends = [("[CLS]", 2), ("[SEP]", 3)]
        core.post_processor = processors.TemplateProcessing("[CLS] $A [SEP] [SEP]", special_tokens=ends)
    return core
