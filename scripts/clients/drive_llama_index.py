"""LlamaIndex's OpenAIEmbedding, one by one and many, synchronous and asynchronous."""

from llama_index.embeddings.openai import OpenAIEmbedding

from checks import check, equal, holds, main, texts, world

WORLD = world()


@check("a local model: texts, query, asynchronous")
async def local() -> None:
    model = OpenAIEmbedding(
        model_name=WORLD.local, embed_batch_size=7, dimensions=64, max_retries=0, api_base=WORLD.url
    )
    rows = texts(30)
    found = model.get_text_embedding_batch(rows)
    equal((len(found), {len(vector) for vector in found}), (30, {64}))
    again = await model.aget_text_embedding_batch(rows)
    one = model.get_query_embedding(rows[11])
    for other in (again[11], one):
        holds(max(abs(a - b) for a, b in zip(found[11], other, strict=True)) < 1e-6)


@check("its own default names, for a stand-in")
async def named() -> None:
    model = OpenAIEmbedding(model=WORLD.rehearsed, max_retries=0, api_base=WORLD.url)
    equal(len(await model.aget_query_embedding("a question")), 1536)


if __name__ == "__main__":
    main("llama-index-embeddings-openai", "openai")
