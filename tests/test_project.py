"""What a configuration stands for: opened, checked, and nothing made where nothing may be."""

import shutil
from dataclasses import replace
from typing import Any

import pytest

from embedfill.chunker.policy import Policy
from embedfill.chunker.splitter import Splitter
from embedfill.errors import ConfigError, StoreError, UsageError
from embedfill.models import tokenizers
from embedfill.project import Project, open_project
from embedfill.store.memory import MemoryStore
from tests.chain_fixtures import Chain, documents
from tests.cli_fixtures import everything_below


def project(chain: Chain, read_only: bool = False, **tables: Any) -> Project:
    return open_project(chain.config(**tables), read_only)


def test_a_store_is_made_once_and_keeps_its_identity(chain: Chain) -> None:
    first = project(chain)
    assert project(chain).store_id == first.store_id == project(chain, read_only=True).store_id
    assert first.cache.root == chain.folder / "cache" / first.store_id
    assert first.store.url == str(chain.folder / "store")


def test_only_looking_makes_nothing(chain: Chain) -> None:
    chain.config()
    before = everything_below(chain.folder)
    with pytest.raises(UsageError, match="there is no store") as caught:
        project(chain, read_only=True)
    assert "embedfill run" in caught.value.hint
    assert everything_below(chain.folder) == before


def test_the_cache_is_the_users_unless_configured(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(chain.folder / "home"))
    config = chain.config()
    plain = config.model_copy(update={"cache": type(config.cache)()})
    opened = open_project(plain)
    assert opened.cache.root == chain.folder / "home" / "embedfill" / opened.store_id


def test_what_decides_the_chunks_is_of_the_model(chain: Chain) -> None:
    opened = project(chain)
    assert (opened.chunking.tokenizer, opened.chunking.max_tokens, opened.chunking.overlap) == (
        "wordllama-256",
        512,
        32,
    )
    assert opened.chunking.max_bytes == 512 * 16
    small = project(chain, chunking={"max_tokens": 40, "format": "markdown"}).chunking
    assert (small.max_tokens, small.overlap, small.format) == (40, 10, "markdown")
    minilm = project(chain, embedding={"model": "all-MiniLM-L6-v2"})
    assert (minilm.chunking.max_tokens, minilm.space.dimensions) == (256, 384)


@pytest.mark.parametrize(
    ("tables", "key"),
    [
        ({"chunking": {"max_tokens": 4096}}, "chunking.max_tokens"),
        ({"embedding": {"max_input_tokens": 20}}, "chunking.overlap"),
        ({"embedding": {"dimensions": 100}}, "embedding.dimensions"),
        ({"embedding": {"template": "{title}"}}, "embedding.template"),
        ({"embedding": {"template": "{text} {author}"}}, "embedding.template"),
        ({"embedding": {"query_template": "no place for it"}}, "embedding.query_template"),
        ({"embedding": {"query_template": "{query} {title}"}}, "embedding.query_template"),
        ({"embedding": {"provider": "generic"}}, "embedding.base_url"),
        ({"embedding": {"provider": "openai", "model": "unheard-of"}}, "embedding.dimensions"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_does_not_fit_together_is_named_before_anything_is_made(
    chain: Chain, tables: dict[str, Any], key: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        project(chain, **tables)
    assert caught.value.key == key
    assert not (chain.folder / "store").exists()


def test_a_query_template_without_a_query_cannot_be(chain: Chain) -> None:
    assert project(chain, embedding={"query_template": "search: {query}"}).config.embedding.query_template


def test_the_text_columns_own_name_is_the_text(chain: Chain) -> None:
    named = project(chain, corpus={"text": "body"}, embedding={"template": "{title}: {body} {{body}}"})
    assert named.chunking.template == "{title}: {text} {{body}}"
    assert (named.corpus.text_columns, named.corpus.fields) == (("body",), ("title",))
    several = project(chain, corpus={"text": ["body", "notes"]}, embedding={"template": "{text} {notes}"})
    assert (several.chunking.template, several.corpus.fields) == ("{text} {notes}", ("notes",))


def test_equal_text_under_another_column_name_is_the_same_chunking(chain: Chain) -> None:
    one = project(chain, corpus={"text": "body"}, embedding={"template": "{body}"})
    other = project(chain, corpus={"text": "text"}, embedding={"template": "{text}"})
    assert one.chunking.id == other.chunking.id
    assert one.corpus.id != other.corpus.id


def test_a_quarter_of_the_quota_is_a_shard(chain: Chain) -> None:
    opened = project(chain, batch={"max_enqueued_tokens": 1000, "max_inputs": 7, "inputs_per_request": 3})
    packing = opened.packing(opened.quota())
    assert (packing.shard_tokens, packing.inputs, packing.request_inputs) == (250, 7, 3)
    free = project(chain, batch={"max_enqueued_tokens": 10**9})
    assert free.packing(free.quota()).dimensions == 256


@pytest.mark.parametrize(
    ("base_url", "paid"),
    [
        ("http://127.0.0.1:9/v1", False), ("http://localhost:9/v1", False), ("http://[::1]:9/v1", False),
        ("http://127.0.0.1.example.com/v1", True), ("http://127.example.com/v1", True), ("http://10.0.0.1/v1", True),
        ("https://api.example.com/v1", True),
    ],
)  # fmt: skip
def test_only_this_machine_is_free(chain: Chain, base_url: str, paid: bool) -> None:
    server = {"provider": "generic", "base_url": base_url, "dimensions": 256}
    assert project(chain, embedding=server).paid is paid
    assert project(chain).paid is False


def test_a_rehearsal_is_another_space_than_the_real_thing(chain: Chain) -> None:
    model = {"provider": "openai", "model": "text-embedding-3-small"}
    spaces = {
        project(chain, embedding={**model, **more}).space.id
        for more in (
            {},
            {"base_url": "http://127.0.0.1:9/v1"},
            {"dimensions": 512},
            {"model": "text-embedding-3-large"},
        )
    }
    assert len(spaces) == 4


class Careless(MemoryStore):
    """Overwrites, as some services that look like S3 do."""

    def create(self, key: str, data: bytes) -> bool:
        self.delete(key)
        return super().create(key, data)


def test_a_new_store_that_overwrites_is_not_used(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Careless()
    monkeypatch.setattr("embedfill.project.open_store", lambda _: store)
    with pytest.raises(StoreError, match="create-if-absent"):
        project(chain)
    assert list(store.list("")) == []


def test_a_budget_needs_a_price(chain: Chain) -> None:
    chain.write(documents(range(1)))
    embedding = {"provider": "openai", "model": "of-our-own", "dimensions": 8, "base_url": "http://127.0.0.1:1/v1"}
    with pytest.raises(ConfigError, match="price_per_million"):
        open_project(chain.config(embedding=embedding, batch={"budget_usd": 1.0}))


def test_a_base_url_is_for_a_remote_provider(chain: Chain) -> None:
    chain.write(documents(range(1)))
    with pytest.raises(ConfigError, match=r"embedding\.base_url.*remote provider"):
        open_project(chain.config(embedding={"model": "wordllama-256", "base_url": "http://127.0.0.1:1/v1"}))


def test_a_tokenizer_lies_where_the_configuration_says(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its path starts at the configuration's folder, and where that is does not decide the chunks."""
    pytest.importorskip("tokenizers")
    (chain.folder / "own").mkdir()
    shutil.copy(tokenizers._path("all-MiniLM-L6-v2"), chain.folder / "own" / "tokenizer.json")
    (chain.folder / "elsewhere").mkdir()
    monkeypatch.chdir(chain.folder / "elsewhere")
    own = {"tokenizer": "own/tokenizer.json", "special_tokens": "remove"}
    spec = project(chain, embedding=own).chunking
    assert Splitter(spec).count(["word " * 7]) == [9]
    assert Policy(replace(spec, special_tokens="reject")).screen([]) == ([], [])
    assert spec.id == replace(spec, tokenizer_file=None).id == replace(spec, tokenizer_file="/x").id
    assert project(chain, embedding={"tokenizer": "cl100k_base"}).chunking.tokenizer_file is None
    missing = project(chain, embedding={"tokenizer": "none.json"}).chunking
    with pytest.raises(ConfigError, match=rf"{chain.folder}/none\.json"):
        Splitter(missing)


def test_nothing_is_paid_for_into_a_store_that_is_forgotten(chain: Chain) -> None:
    chain.store = "memory://x"
    with pytest.raises(ConfigError, match=r"store = 'memory://x'.* gone with this process"):
        project(chain, embedding={"provider": "openai", "model": "text-embedding-3-small"})
    assert not project(chain, embedding={"provider": "local", "model": "wordllama-256"}).paid
