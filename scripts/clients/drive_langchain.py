"""LangChain's OpenAIEmbeddings: it cuts texts into token arrays by itself, and sends those."""

import os
from pathlib import Path

import llama_index.core

from checks import check, equal, holds, main, texts, world

WORLD = world()
# tiktoken would fetch its ranks from the net; LlamaIndex brings them along.
os.environ["TIKTOKEN_CACHE_DIR"] = str(Path(llama_index.core.__file__).parent / "_static" / "tiktoken_cache")

from langchain_openai import ChatOpenAI, OpenAIEmbeddings  # noqa: E402 - reads the variable

LONG = " ".join(texts(3000))  # of more tokens than a request may have: it is cut, and the vectors are averaged


@check("token arrays, synchronous and asynchronous")
async def tokens() -> None:
    embeddings = OpenAIEmbeddings(model=WORLD.rehearsed)
    rows = [*texts(30), LONG]
    found = embeddings.embed_documents(rows)
    equal((len(found), {len(vector) for vector in found}), (31, {1536}))
    again = await embeddings.aembed_documents(rows)
    holds(max(abs(a - b) for a, b in zip(found[7], again[7], strict=True)) < 1e-6)
    equal(len(await embeddings.aembed_query("a question")), 1536)


@check("texts, for a model of another tokenizer")
async def plain() -> None:
    embeddings = OpenAIEmbeddings(model=WORLD.local, check_embedding_ctx_length=False, chunk_size=7, dimensions=64)
    found = embeddings.embed_documents(texts(30))
    equal((len(found), {len(vector) for vector in found}), (30, {64}))
    one = await embeddings.aembed_query(texts(30)[11])
    holds(max(abs(a - b) for a, b in zip(found[11], one, strict=True)) < 1e-6)


@check("ChatOpenAI: invoke, stream, batch")
async def chat() -> None:
    model = ChatOpenAI(model=WORLD.chat, max_completion_tokens=4, temperature=0)
    usage = model.invoke("Hello").usage_metadata
    equal(usage and usage["output_tokens"], 4)
    holds([chunk async for chunk in model.astream("Hello")])
    equal(len(await model.abatch(texts(5))), 5)


if __name__ == "__main__":
    main("langchain-openai", "openai")
