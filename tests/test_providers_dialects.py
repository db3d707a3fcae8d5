"""Every profile against a server that speaks as its provider does and refuses what that would: the whole tracker."""

import itertools
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import pytest

from embedfill import ids
from embedfill.config import Config, parse
from embedfill.errors import ConfigError, EmbedfillError
from embedfill.models.known import ModelInfo, resolve
from embedfill.providers.client import BatchClient
from embedfill.providers.connect import query_request, remote_client, request_of, space_of
from embedfill.providers.profiles import PROFILES, format_of, profile_of, window_of
from embedfill.retrieve import Retriever
from embedfill.store.cache import Cache
from embedfill.store.memory import MemoryStore
from embedfill.tracker.maker import this_maker
from embedfill.tracker.quota import Quota
from embedfill.tracker.shards import Packing
from embedfill.tracker.state import State, Status
from embedfill.tracker.submit import Account
from tests.chain_fixtures import Chain, documents
from tests.dialect_fixtures import KEY, RULES, Rules, Speaking
from tests.fate_fixtures import DIMENSIONS, vector
from tests.provider_fixtures import accept_and_drop, drop
from tests.tracker_fixtures import PATIENCE, SPACE, Tracker, price_of, texts_of

# Eight dimensions of its own, four when asked: only who names the parameter rightly gets four.
TINY = ModelInfo("tiny", DIMENSIONS, 512, "cl100k_base", shorter=None)
ODD = ["line\u2028and\u2029and\u0085end", '"quoted" \\ and\ttab', "\x00 NUL", "\U0001f600"]


def config(provider: str, url: str, **tables: Any) -> Config:
    embedding = {"provider": provider, "model": "tiny", "dimensions": DIMENSIONS, "api_key_env": "DIALECT_KEY"}
    if provider != "local":
        embedding["base_url"] = url
    embedding |= tables.pop("embedding", {})
    return parse(
        {"store": "s", "corpus": {"paths": ["x"]}, "embedding": embedding, **tables}, Path("/base"), environ={}
    )


class Spoken:
    """A tracker of one profile and the provider it works with."""

    def __init__(self, name: str, provider: Speaking, client: BatchClient, folder: Path) -> None:
        made = config(name, provider.url, embedding={"options": {"input_type": "document"}} if name == "voyage" else {})
        request, profile = request_of(made, TINY), PROFILES[name]
        store = MemoryStore()
        cache = Cache(folder / "cache", store)
        account = Account(
            store=store, cache=cache, client=client, space=SPACE, store_id="store-1", line=request.line,
            price_of=price_of, patience=PATIENCE, maker=this_maker(), endpoint=request.dialect.endpoint,
            window=window_of(profile, made.batch), options=request.batch_options,
        )  # fmt: skip
        packing = Packing(profile.limits, DIMENSIONS, request.encoding, 100, 40, None, request.model)
        self.tracker = Tracker(account, State(store, cache, SPACE), packing, Quota(None, None), provider)
        self.provider = provider

    def check(self, texts: list[str]) -> None:
        """Every text has its vector, once, and the provider took offence at nothing."""
        assert self.provider.broken == []
        found = self.tracker.vectors()
        assert {ids.text_id(text): [vector(text).tolist()] for text in texts} == found


@pytest.fixture(params=PROFILES)
def spoken(
    request: pytest.FixtureRequest, speaking: Callable[..., Speaking], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Spoken]:
    name, provider = request.param, speaking(request.param)
    monkeypatch.setenv("DIALECT_KEY", KEY)
    # The local engine has a process of its own, and a client like OpenAI's.
    reached = config(name if name != "local" else "openai", provider.url)
    with remote_client(reached.embedding, profile_of(reached.embedding)) as client:
        yield Spoken(name, provider, client, tmp_path)


def test_every_profile_has_rules() -> None:
    assert RULES.keys() == PROFILES.keys()


def test_plan_submit_and_collect(spoken: Spoken) -> None:
    texts = texts_of(90) + ODD
    spoken.tracker.embed(texts)
    spoken.check(texts)
    assert len(spoken.provider.batches) == 3
    assert spoken.tracker.state.spent_usd() == pytest.approx(len(texts) / 1000)


def test_requests_are_as_full_as_the_provider_allows(spoken: Spoken) -> None:
    spoken.tracker.embed(texts_of(40))
    lines = [life.lines or [] for life in spoken.provider.lives.values()]
    sizes = [len(line["body"]["input"]) for line in itertools.chain.from_iterable(lines)]
    assert sizes == ([10] * 4 if spoken.provider.rules.inputs == 10 else [40])


def test_a_batch_whose_answer_was_lost_is_adopted(spoken: Spoken) -> None:
    spoken.provider.script("POST", "/batches", accept_and_drop)
    spoken.tracker.embed(texts_of(12))
    spoken.check(texts_of(12))
    assert len(spoken.provider.batches) == 1


def test_a_batch_without_our_mark_is_known_by_its_file(spoken: Spoken) -> None:
    spoken.provider.without.add("metadata")
    spoken.provider.script("POST", "/batches", accept_and_drop)
    spoken.tracker.embed(texts_of(12))
    spoken.check(texts_of(12))
    assert len(spoken.provider.batches) == 1


def test_a_batch_that_was_never_made_is_fenced_and_sent_again(spoken: Spoken) -> None:
    """Fencing deletes the uploaded file, in whatever way that is done here."""
    spoken.provider.script("POST", "/batches", drop)
    spoken.tracker.embed(texts_of(12))
    spoken.check(texts_of(12))
    assert len(spoken.provider.batches) == 1
    assert not any(name == "file-1" for name in spoken.provider.files)


def test_another_run_goes_on_where_one_was_killed(spoken: Spoken, tmp_path: Path) -> None:
    spoken.provider.hold = True
    spoken.tracker.plan(texts_of(50))
    spoken.tracker.advance(wait=False)
    spoken.provider.finish()
    again = spoken.tracker.again(tmp_path / "other")
    again.embed(texts_of(50))
    spoken.check(texts_of(50))
    assert len(spoken.provider.batches) == 2


def test_what_is_cancelled_ends_and_goes_out_again(spoken: Spoken) -> None:
    spoken.provider.hold = True
    spoken.tracker.plan(texts_of(5))
    spoken.tracker.advance(wait=False)
    (shard,) = spoken.tracker.state.open()
    assert shard.status is Status.SUBMITTED
    spoken.tracker.account.client.cancel(str(shard.batch_id))
    spoken.provider.hold = False
    spoken.tracker.embed(texts_of(5))
    spoken.check(texts_of(5))
    assert len(spoken.provider.batches) == 2


def test_a_text_that_is_refused_costs_no_other(spoken: Spoken) -> None:
    texts = texts_of(12)
    spoken.provider.refuses = {texts[3]}
    spoken.tracker.embed(texts)
    spoken.check([text for text in texts if text != texts[3]])


def test_questions_are_embedded_in_the_same_words(spoken: Spoken) -> None:
    name = next(name for name, rules in RULES.items() if rules is spoken.provider.rules)
    made = config("openai" if name == "local" else name, spoken.provider.url, embedding={"send_dimensions": True})
    request = query_request(made, space_of(made, TINY))
    client = spoken.tracker.account.client
    found = client.embed(["a", "b"], "tiny", DIMENSIONS, request.body(["a", "b"]))
    assert found.tolist() == [vector("a").tolist(), vector("b").tolist()]
    assert spoken.provider.broken == []


# That the servers would notice.


@pytest.mark.parametrize(
    ("name", "other", "words"),
    [
        ("voyage", "openai", "unknown|request_params|such window"),
        ("dashscope", "openai", "40 inputs|encoding_format base64"),
        ("azure", "openai", "wrong key"),
        ("openai", "voyage", "unknown parameter request_params|such window"),
        ("openai", "azure", "wrong key"),
    ],
)
def test_another_dialect_is_refused(
    name: str,
    other: str,
    words: str,
    speaking: Callable[..., Speaking],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("DIALECT_KEY", KEY)
    provider = speaking(name)
    reached = config(other, provider.url)
    with remote_client(reached.embedding, profile_of(reached.embedding)) as client:
        tracker = Spoken(other, provider, client, tmp_path).tracker
        tracker.plan(texts_of(40))
        with suppress(EmbedfillError):
            tracker.advance(wait=False)
    assert provider.broken and any(re.search(words, fault) for fault in provider.broken)


def test_a_byte_order_mark_and_foreign_lines_are_refused() -> None:
    azure, voyage = Speaking(RULES["azure"]), Speaking(RULES["voyage"])
    line = {"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {"model": "m", "input": ["x"]}}
    data = orjson.dumps(line) + b"\n"
    assert azure._wrong_lines(data) == []
    assert azure._wrong_lines(b"\xef\xbb\xbf" + data)[0]["code"] == "invalid_json_line"
    assert "the line has" in voyage._wrong_lines(data)[0]["message"]


# The words of each profile.


def test_windows_and_encodings_that_a_provider_does_not_have_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"batch\.completion_window .*12h"):
        window_of(PROFILES["voyage"], config("voyage", "http://x/v1", batch={"completion_window": "24h"}).batch)
    assert window_of(PROFILES["dashscope"], config("dashscope", "http://x", batch={"completion_window": "14d"}).batch)
    assert (
        window_of(PROFILES["generic"], config("generic", "http://x", batch={"completion_window": "3h"}).batch) == "3h"
    )
    with pytest.raises(ConfigError, match=r"embedding\.encoding_format .*'float' only"):
        format_of(
            PROFILES["dashscope"], config("dashscope", "http://x", embedding={"encoding_format": "base64"}).embedding
        )
    assert format_of(PROFILES["voyage"], config("voyage", "http://x", embedding={"encoding_format": "float"}).embedding)


def test_floats_from_voyage_are_asked_for_by_asking_for_nothing() -> None:
    request = request_of(config("voyage", "http://x", embedding={"encoding_format": "float"}), TINY)
    assert request.batch_options == {"request_params": {"model": "tiny", "output_dimension": DIMENSIONS}}
    assert orjson.loads(request.line("a", ["x"])) == {"custom_id": "a", "body": {"input": ["x"]}}


def test_an_endpoint_of_another_name_stands_in_every_line() -> None:
    request = request_of(config("azure", "http://x", batch={"endpoint": "/embeddings"}), TINY)
    assert orjson.loads(request.line("a", ["x"]))["url"] == request.dialect.endpoint == "/embeddings"


def test_dimensions_are_named_or_not_as_told() -> None:
    asked = request_of(config("generic", "http://x", embedding={"send_dimensions": True}), TINY)
    assert orjson.loads(asked.line("a", ["x"]))["body"]["dimensions"] == DIMENSIONS
    silent = request_of(config("generic", "http://x", embedding={"send_dimensions": False}), TINY)
    assert "dimensions" not in orjson.loads(silent.line("a", ["x"]))["body"]
    small = config(
        "openai", "http://x", embedding={"model": "text-embedding-3-small", "dimensions": 512, "send_dimensions": False}
    )
    with pytest.raises(ConfigError, match="send_dimensions"):
        request_of(small, resolve(small.embedding))


def test_options_make_another_space_and_questions_have_their_own() -> None:
    plain = config("voyage", "http://x")
    typed = config(
        "voyage",
        "http://x",
        embedding={"options": {"input_type": "document"}, "query_options": {"input_type": "query"}},
    )
    assert space_of(plain, TINY).id != space_of(typed, TINY).id
    assert query_request(typed, space_of(typed, TINY)).options["input_type"] == "query"
    alike = config("voyage", "http://x", embedding={"options": {"input_type": "document"}})
    assert query_request(alike, space_of(alike, TINY)).options["input_type"] == "document"
    assert space_of(alike, TINY).id == space_of(typed, TINY).id


@pytest.mark.parametrize("name", ["model", "input", "dimensions", "encoding_format", "output_dtype"])
def test_a_parameter_with_a_key_of_its_own_is_no_option(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"embedding\.options.*{name} has a key of its own"):
        config("openai", "http://x", embedding={"options": {name: "x"}})


def test_a_model_whose_tokenizer_does_not_come_with_us_says_where_to_get_it() -> None:
    made = config("voyage", "http://x", embedding={"model": "voyage-4", "dimensions": 512})
    with pytest.raises(ConfigError, match=r"embedding\.tokenizer is required .*huggingface\.co/voyageai/voyage-4"):
        resolve(made.embedding)
    told = config("voyage", "http://x", embedding={"model": "voyage-4", "dimensions": 512, "tokenizer": "cl100k_base"})
    assert (resolve(told.embedding).dimensions, resolve(told.embedding).max_tokens) == (512, 32_000)


# Whole runs from a configuration.


@pytest.mark.parametrize(
    ("name", "more"),
    [("voyage", {"options.input_type": "document", "query_options.input_type": "query"}), ("azure", {})],
)
def test_a_whole_run(
    name: str, more: dict[str, Any], chain: Chain, speaking: Callable[..., Speaking], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIALECT_KEY", KEY)
    provider = speaking(name)
    embedding = {
        "provider": name, "base_url": provider.url, "model": "tiny", "dimensions": DIMENSIONS, "send_dimensions": True,
        "api_key_env": "DIALECT_KEY", "price_per_million": 1000.0, "tokenizer": "cl100k_base", **more,
    }  # fmt: skip
    batch = {"max_inputs": 10, "inputs_per_request": 5, "poll_s": 0.002, "listing_delay_s": 0.03}
    chain.write(documents(range(30)))
    summary = chain.run(embedding=embedding, batch=batch)
    assert (summary.texts, summary.embedded, summary.batches, summary.rejected) == (30, 30, 3, 0)
    assert summary.cost_usd == pytest.approx(0.03)
    assert provider.broken == []
    sent = len(provider.requests)
    assert chain.run(embedding=embedding, batch=batch).embedded == 0 and len(provider.requests) == sent
    assert Retriever.open(chain.config(embedding=embedding, batch=batch)).search("a question", k=3)
    if name == "voyage":
        (asked,) = provider.asked("POST", "/embeddings")
        assert orjson.loads(asked.body)["input_type"] == "query"
        params = [orjson.loads(made.body)["request_params"] for made in provider.asked("POST", "/batches")]
        assert all(one["input_type"] == "document" for one in params)


def test_rules_are_of_the_real_thing() -> None:
    """The defaults of `Rules` are OpenAI's."""
    assert RULES["openai"] == Rules()
