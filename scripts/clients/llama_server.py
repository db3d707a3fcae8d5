"""llama.cpp's own server, as a process on 127.0.0.1 with one thread, serving a chat model of random weights.

Prints its address once it answers; ends when its standard input does.

    python scripts/clients/llama_server.py FOLDER
"""

import sys
from pathlib import Path

import xllamacpp

from tiny_gguf import CONTEXT, write

MODEL = "tiny-chat"


def parameters(model: Path) -> xllamacpp.CommonParams:
    found = xllamacpp.CommonParams()
    found.model.path = str(model)
    found.model_alias = {MODEL}
    found.port = 0
    found.n_parallel = 4
    found.n_ctx = CONTEXT
    found.cpuparams.n_threads = found.cpuparams_batch.n_threads = 1
    found.embedding = True
    found.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    found.force_pure_content_parser = True  # what it says is in no form that could be parsed
    found.warmup = False
    found.verbosity = 0
    return found


def main() -> None:
    model = Path(sys.argv[1]) / "tiny.gguf"
    write(model)
    server = xllamacpp.Server(parameters(model))
    print(f"listening on {server.listening_address}/v1", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
