"""The clients that are tried, and the servers behind the engine: what each installs and which driver drives it. Data."""

from dataclasses import dataclass

LLAMA = ("xllamacpp>=2026.10.11549", "gguf>=0.17,<1")
# 1.107.0 was published by somebody else than its makers, and withdrawn.
LITELLM = ("litellm[proxy]>=1.100,<2,!=1.107.*",)
BATCHERS = ("batchwizard>=0.5,<0.6", "autobatcher>=0.12,<0.13")
FRAMEWORKS = ("langchain-openai>=1,<2", "llama-index-embeddings-openai>=0.7,<0.8")


@dataclass(frozen=True)
class Client:
    """`quick`: part of the short run. What it says of itself is all that a driver may set: an address and a key."""

    name: str
    requires: tuple[str, ...]
    driver: str
    quick: bool = False


CLIENTS = (
    Client("openai-1", ("openai>=1.109,<2",), "drive_openai.py", quick=True),
    Client("openai-2", ("openai>=2,<3",), "drive_openai.py", quick=True),
    Client("openai-3", ("openai>=3,<4",), "drive_openai.py", quick=True),
    Client("schemathesis", ("schemathesis>=4.32,<5",), "drive_schemathesis.py", quick=True),
    Client("batchwizard", BATCHERS, "drive_batchwizard.py"),
    Client("autobatcher", BATCHERS, "drive_autobatcher.py"),
    Client("langchain", FRAMEWORKS, "drive_langchain.py"),
    Client("llama-index", FRAMEWORKS, "drive_llama_index.py"),
    Client("litellm", LITELLM, "drive_litellm.py"),
)
