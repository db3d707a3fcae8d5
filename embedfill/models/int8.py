"""all-MiniLM-L6-v2-int8: MiniLM computed in 8 bits where the CPU has the instructions, about twice as fast.

Its weights are those that MiniLM comes with, unchanged; what is new is that the inputs of every product are rounded to 8
bits too, over the range of one forward pass. So these are other vectors (cosine .995 to MiniLM's), never to be mixed with
those; and each text has a pass of its own, else its vector would depend on its neighbours. The graph is made in memory
from MiniLM's file in half a second: nothing is written.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedfill.errors import ModelError
from embedfill.models import minilm
from embedfill.models.encoder import ALONE, Encoder
from embedfill.models.files import checked_file
from embedfill.models.onnx import OnnxForward
from embedfill.models.tokenizers import load_file

NAME = "all-MiniLM-L6-v2-int8"
_LAYERS, _HEADS = 6, 12
_EPSILON = 1e-12
_FUSED = "com.microsoft"  # the domain of ONNX Runtime's own operators
_EMBEDDINGS = "inner.embeddings."
_VNNI = {"avx512_vnni", "avx_vnni"}

Array = NDArray[Any]
# Weights (inputs, outputs) in 8 bits, the scale of each output, and the bias.
Linear = tuple[Array, Array, Array]


def open_int8(threads: int = 0) -> Encoder:
    """Raises ModelError where the CPU would compute other vectors, or a package is missing."""
    if not has_vnni(_cpuinfo()):
        # The older instructions add in 16 bits, which overflow: the same text would have another vector there.
        raise ModelError(f"{NAME} needs a CPU with VNNI, which this one has not", f"use {minilm.NAME}")
    path = checked_file(minilm.PACKAGE, minilm.FILE, minilm.SHA256)
    forward = OnnxForward(path, "mean", threads, "cpu", graph=build(path))
    return Encoder(NAME, load_file(minilm.NAME), forward, minilm.MAX_TOKENS, padded_tokens=ALONE)


def possible() -> bool:
    """Whether the CPU and the packages allow it."""
    return has_vnni(_cpuinfo()) and find_spec("onnx") is not None


def has_vnni(cpuinfo: str) -> bool:
    """Whether every core of a machine with this /proc/cpuinfo multiplies 8 bits into 32."""
    flags = [set(line.split()) for line in cpuinfo.splitlines() if line.startswith("flags")]
    return bool(flags) and all(found & _VNNI for found in flags)


def build(path: Path) -> bytes:
    """The graph that computes in 8 bits, from MiniLM's own file. Raises ModelError."""
    try:
        import onnx
    except ImportError as error:
        raise ModelError(f"{NAME} needs the package onnx", 'pip install "embedfill[int8]"') from error
    weights = Weights(onnx, path)
    graph = Graph(onnx)
    hidden = _embedded(graph, weights)
    for number in range(_LAYERS):
        hidden = _layer(graph, weights, hidden, f"encoder.layer.{number}.")
    return graph.model(hidden)


class Weights:
    """The tables, layer norms and linear layers of MiniLM's file, found by the names of their biases."""

    def __init__(self, onnx: Any, path: Path) -> None:  # noqa: ANN401 - onnx has few types
        graph = onnx.load(str(path)).graph
        self._tensors: dict[str, Array] = {
            tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer
        }
        products = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "MatMul"}
        sums = (node.input for node in graph.node if node.op_type == "Add")
        self._products = {bias: products[product] for product, bias in sums if product in products}

    def tensor(self, name: str) -> Array:
        return self._tensors[f"inner.{name}"]

    def table(self, name: str) -> Array:
        """An embedding table in float32."""
        name = f"{_EMBEDDINGS}{name}.weight"
        return np.asarray(self._tensors[f"{name}_q"].astype(np.float32) * self._tensors[f"{name}_scale"], np.float32)

    def linear(self, name: str) -> Linear:
        bias = f"inner.{name}.bias"
        product = self._products[bias]
        return self._tensors[f"{product}_q"], self._tensors[f"{product}_scale"].ravel(), self._tensors[bias]


class Graph:
    """Nodes and constants of a model that is being written, each named by a number."""

    def __init__(self, onnx: Any) -> None:  # noqa: ANN401 - onnx has few types
        self._onnx = onnx
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def constant(self, value: Array) -> str:
        name = f"constant_{len(self._constants)}"
        self._constants.append(self._onnx.numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, kind: str, *inputs: str, outputs: int = 1, domain: str = _FUSED, **attributes: Any) -> list[str]:  # noqa: ANN401
        """Adds a node; the names of its outputs."""
        names = [f"value_{len(self._nodes)}_{number}" for number in range(outputs)]
        self._nodes.append(self._onnx.helper.make_node(kind, inputs, names, domain=domain, **attributes))
        return names

    def linear(self, hidden: str, layer: Linear, bias: bool = True) -> str:
        weights, scales, biases = layer
        more = ["", self.constant(biases)] if bias else []
        return self.node("DynamicQuantizeMatMul", hidden, self.constant(weights), self.constant(scales), *more)[0]

    def model(self, output: str) -> bytes:
        helper, types = self._onnx.helper, self._onnx.TensorProto
        self._nodes.append(helper.make_node("Identity", [output], ["last_hidden_state"]))
        shape = ["texts", "tokens"]
        inputs = [helper.make_tensor_value_info(name, types.INT64, shape) for name in ("input_ids", "attention_mask")]
        outputs = [helper.make_tensor_value_info("last_hidden_state", types.FLOAT, [*shape, "dimensions"])]
        graph = helper.make_graph(self._nodes, NAME, inputs, outputs, self._constants)
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid(_FUSED, 1)]
        return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def _embedded(graph: Graph, weights: Weights) -> str:
    """Words, places and the one kind of segment, summed and normalised."""
    places = weights.table("position_embeddings") + weights.tensor("embeddings.token_type_embeddings.weight")[0]
    (ids,) = graph.node("Cast", "input_ids", domain="", to=6)  # INT32
    norm = [graph.constant(weights.tensor(f"embeddings.LayerNorm.{part}")) for part in ("weight", "bias")]
    tables = [graph.constant(weights.table("word_embeddings")), graph.constant(places), ""]
    return graph.node("EmbedLayerNormalization", ids, "", *tables, *norm, outputs=2, epsilon=_EPSILON)[0]


def _layer(graph: Graph, weights: Weights, hidden: str, name: str) -> str:
    attention = graph.linear(_attention(graph, weights, hidden, name), weights.linear(f"{name}attention.output.dense"))
    middle = _normed(graph, weights, hidden, attention, f"{name}attention.output.LayerNorm")
    wide = weights.linear(f"{name}intermediate.dense")
    (active,) = graph.node("BiasGelu", graph.linear(middle, wide, bias=False), graph.constant(wide[2]))
    narrow = graph.linear(active, weights.linear(f"{name}output.dense"))
    return _normed(graph, weights, middle, narrow, f"{name}output.LayerNorm")


def _attention(graph: Graph, weights: Weights, hidden: str, name: str) -> str:
    """All heads at once: queries, keys and values from one product."""
    layers = [weights.linear(f"{name}attention.self.{part}") for part in ("query", "key", "value")]
    matrix, scales, bias = (np.concatenate(parts, axis=-1) for parts in zip(*layers, strict=True))
    rounded, scale, zero = graph.node("DynamicQuantizeLinear", hidden, outputs=3, domain="")
    (mask,) = graph.node("Cast", "attention_mask", domain="", to=6)
    inputs = [rounded, graph.constant(matrix), graph.constant(bias), scale, graph.constant(scales), mask, zero]
    return graph.node("QAttention", *inputs, graph.constant(np.zeros(len(scales), np.int8)), num_heads=_HEADS)[0]


def _normed(graph: Graph, weights: Weights, before: str, after: str, name: str) -> str:
    parts = [graph.constant(weights.tensor(f"{name}.{part}")) for part in ("weight", "bias")]
    return graph.node("SkipLayerNormalization", before, after, *parts, epsilon=_EPSILON)[0]


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
