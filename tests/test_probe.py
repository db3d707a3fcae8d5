"""Probing: what an endpoint has is seen, what it has not is seen too, nothing is left behind and nothing paid twice."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
import pytest

from embedfill.clock import Clock
from embedfill.config import Config, parse
from embedfill.errors import ProviderError, RefusedError, UnreachableError, UsageError
from embedfill.features import POSSIBLE
from embedfill.probe import Cost, Options, Probe, probe
from embedfill.providers.client import BatchClient
from tests.dialect_fixtures import KEY, RULES, Rules, Speaking
from tests.engine_fixtures import EngineProcess
from tests.fate_fixtures import DIMENSIONS, Fate
from tests.provider_fixtures import Provider, Reply, Request, accept_and_drop, drop, refuse, say

EVERYTHING = {
    "base64": True, "floats": True, "dimensions": True, "inputs_per_request": 100, "line_separators": True, "usage": True,
    "listing": True, "metadata": True, "file_listing": True, "file_deletion": True, "range": True, "if_range": True,
    "strong_etag": True, "sync": True,
}  # fmt: skip


def config(**embedding: Any) -> Config:
    batch = {"poll_s": 0.005, "listing_delay_s": 0.1, **embedding.pop("batch", {})}
    raw = {"store": "never-made", "corpus": {"paths": ["x"]}, "embedding": embedding, "batch": batch}
    return parse(raw, Path("/base"), environ={})


@pytest.fixture
def probing(
    speaking: Callable[..., Speaking], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Probe, Speaking]]:
    """Probes a provider of a dialect that lacks what is named."""
    monkeypatch.setenv("DIALECT_KEY", KEY)

    def run(
        rules: str | Rules, *without: str, prepare: Callable[[Speaking], None] = lambda _: None, **embedding: Any
    ) -> tuple[Probe, Speaking]:
        provider = speaking(rules)
        provider.without |= set(without)
        prepare(provider)
        name = rules if isinstance(rules, str) else "generic"
        usual = {"provider": name, "base_url": provider.url, "model": "tiny", "api_key_env": "DIALECT_KEY"}
        found = probe(config(**{**usual, "dimensions": DIMENSIONS, **embedding}))
        assert all(values.keys() <= POSSIBLE[table].keys() for table, values in found.settings.items())
        return found, provider

    return run


def seen(found: Probe) -> dict[str, Any]:
    """The features that `EVERYTHING` names."""
    return {name: value for name, value in asdict(found.features).items() if name in EVERYTHING}


def test_our_own_engine_has_everything(engine: EngineProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    before = engine.get("/files").json()["data"]
    found = probe(config(provider="generic", base_url=engine.url, model="wordllama-256"))
    assert seen(found) == EVERYTHING
    assert (found.features.vector_length, found.features.batch_usage) == (256, True)
    assert (found.warnings, found.cost_usd) == ((), None)
    assert found.settings["embedding"] == {"encoding_format": "base64"}
    assert found.settings["batch"]["inputs_per_request"] == 100
    assert 0 < found.settings["batch"]["listing_delay_s"] < 30
    assert found.prompt_tokens > 100
    assert engine.get("/files").json()["data"] == before


def test_the_local_provider_is_probed_without_a_store() -> None:
    found = probe(config(provider="local", model="wordllama-256"))
    assert seen(found) == EVERYTHING
    assert found.cost_usd == 0.0
    assert not Path("/base").exists()


@pytest.mark.parametrize("name", [name for name in RULES if name not in ("local", "voyage")])
def test_every_provider_of_lines(name: str, probing: Callable[..., tuple[Probe, Speaking]]) -> None:
    found, provider = probing(name)
    lacking: dict[str, Any] = {
        "dashscope": {"base64": None, "inputs_per_request": 10},
    }.get(name, {})
    assert seen(found) == EVERYTHING | lacking
    assert found.features.vector_length == 2 * DIMENSIONS
    assert found.settings["embedding"]["send_dimensions"] is True
    assert len(provider.batches) == 1 and provider.files == {}
    assert provider.broken == []


def test_a_provider_whose_batches_have_their_parameters_in_one_place(
    probing: Callable[..., tuple[Probe, Speaking]],
) -> None:
    found, provider = probing("voyage", send_dimensions=True)
    assert seen(found) == EVERYTHING | {"floats": None, "dimensions": None}
    assert found.features.vector_length == DIMENSIONS
    assert provider.broken == [] and provider.files == {}


def test_what_is_missing_is_seen_and_said(probing: Callable[..., tuple[Probe, Speaking]]) -> None:
    missing = (
        "base64",
        "dimensions",
        "several_inputs",
        "usage",
        "metadata",
        "file_listing",
        "deletion",
        "sync",
        "split",
    )
    found, _ = probing("openai", *missing)
    assert seen(found) == {
        "base64": False, "floats": True, "dimensions": False, "inputs_per_request": 1, "line_separators": False,
        "usage": False, "listing": True, "metadata": False, "file_listing": False, "file_deletion": False,
        "range": True, "if_range": True, "strong_etag": True, "sync": False,
    }  # fmt: skip
    assert found.settings["embedding"] == {"encoding_format": "float", "send_dimensions": False}
    assert found.settings["batch"]["inputs_per_request"] == 1
    words = " ".join(found.warnings)
    for word in ("metadata", "deleted", "tokens", "U+2028", "synchronous", f"{2 * DIMENSIONS} numbers"):
        assert word in words


def test_an_endpoint_without_listing(probing: Callable[..., tuple[Probe, Speaking]]) -> None:
    found, provider = probing("openai", "listing")
    assert (found.features.listing, found.features.listed_after_s, found.features.metadata) == (False, None, None)
    assert "listing_delay_s" not in found.settings["batch"] and "not listed" in found.warnings[0]
    assert provider.files == {}


def test_a_batch_that_is_never_listed(probing: Callable[..., tuple[Probe, Speaking]]) -> None:
    found, _ = probing("openai", prepare=lambda provider: setattr(provider, "late_lists", 10_000))
    assert found.features.listing is False


def test_how_late_a_batch_is_listed_is_measured(probing: Callable[..., tuple[Probe, Speaking]]) -> None:
    def late(provider: Speaking) -> None:
        provider.fates = [Fate(unlisted_s=0.6)]

    found, _ = probing("openai", prepare=late, batch={"listing_delay_s": 1.5})
    assert found.features.listed_after_s is not None and 0.5 < found.features.listed_after_s < 1.4
    assert found.settings["batch"]["listing_delay_s"] >= 3.0


def test_files_that_are_given_from_the_start_only(probing: Callable[..., tuple[Probe, Speaking]]) -> None:
    def whole(provider: Speaking) -> None:
        # The download, then the tries.
        provider.script("GET", "/files/output-.*/content", *[_without_ranges] * 10)

    found, _ = probing("openai", prepare=whole)
    assert (found.features.range, found.features.if_range, found.features.strong_etag) == (False, None, False)
    assert any("from the start" in warning for warning in found.warnings)


def _without_ranges(provider: Provider, request: Request) -> Reply:
    request.headers.pop("range", None)
    reply = provider.handle(request)
    del reply.headers["ETag"]
    return reply


def test_lines_that_fail_the_whole_file_are_left_out(probing: Callable[..., tuple[Probe, Speaking]]) -> None:
    found, provider = probing("openai", "strict_bodies")
    assert (found.features.base64, found.features.floats, found.features.dimensions) == (False, False, False)
    assert found.features.inputs_per_request == 100
    assert len(provider.batches) == 2 and provider.files == {}
    assert any("neither" in warning or "nor as floats" in warning for warning in found.warnings)


@pytest.mark.parametrize("told", [False, True])
def test_the_other_name_of_the_endpoint_is_found(told: bool, probing: Callable[..., tuple[Probe, Speaking]]) -> None:
    def silent(provider: Speaking) -> None:
        """It is the batch that fails, not the POST."""
        check = provider._wrong_batch

        def wrong(request: Request) -> tuple[str, str] | None:
            found = check(request)
            if found is None or found[1] != "endpoint":
                return found
            provider._pending = [{"code": "invalid_url", "message": "not the endpoint", "line": 1, "param": "url"}]
            provider.fates.insert(0, Fate("invalid_url"))
            return None

        if not told:
            provider._wrong_batch = wrong  # type: ignore[method-assign]

    found, provider = probing(Rules(endpoint="/embeddings"), prepare=silent)
    assert found.features.endpoint == "/embeddings"
    assert found.settings["batch"]["endpoint"] == "/embeddings"
    assert seen(found) == EVERYTHING and provider.files == {}


def test_the_length_of_an_unknown_model_is_found(probing: Callable[..., tuple[Probe, Speaking]]) -> None:
    found, _ = probing("openai", dimensions=None)
    assert found.settings["embedding"]["dimensions"] == 2 * DIMENSIONS
    assert found.features.dimensions is False  # 64 was asked for


# Safety


def test_a_paid_endpoint_is_asked_about_first(speaking: Callable[..., Speaking]) -> None:
    asked: list[Cost] = []

    def no(cost: Cost) -> bool:
        asked.append(cost)
        return False

    away = {"provider": "openai", "base_url": "http://192.0.2.1/v1", "model": "text-embedding-3-small"}
    with pytest.raises(UsageError, match="nothing was sent"):
        probe(config(**away), Options(confirm=no))
    (cost,) = asked
    assert 500 < cost.tokens < 2000 and cost.usd == pytest.approx(cost.tokens * 0.01 / 1e6, rel=0.1)


def test_the_price_is_the_bill(probing: Callable[..., tuple[Probe, Speaking]]) -> None:
    found, provider = probing("openai", price_per_million=1000.0)
    assert found.prompt_tokens == provider.books.tokens
    batch = provider.books.tokens - 1  # a text is one token here, and one went to the synchronous endpoint
    assert found.cost_usd == pytest.approx((batch + 2) / 1000)


def test_a_lost_answer_is_looked_up_and_nothing_is_made_twice(probing: Callable[..., tuple[Probe, Speaking]]) -> None:
    found, provider = probing("openai", prepare=lambda one: one.script("POST", "/batches", accept_and_drop))
    assert seen(found) == EVERYTHING and len(provider.batches) == 1


def test_a_post_that_came_to_nothing_ends_the_probe(
    probing: Callable[..., tuple[Probe, Speaking]],
) -> None:
    made: list[Speaking] = []

    def prepare(provider: Speaking) -> None:
        made.append(provider)
        provider.script("POST", "/batches", drop)

    with pytest.raises(UnreachableError):
        probing("openai", prepare=prepare)
    assert made[0].files == {} and made[0].batches == {}


def test_a_busy_provider_is_asked_again(probing: Callable[..., tuple[Probe, Speaking]]) -> None:
    def busy(provider: Speaking) -> None:
        provider.script(
            "POST", "/batches", refuse(429, retry_after_ms="1"), refuse(400, None, "Cannot find file file-1")
        )

    found, provider = probing("openai", prepare=busy)
    assert seen(found) == EVERYTHING and len(provider.batches) == 1


@pytest.mark.parametrize("kind", [KeyboardInterrupt, UnreachableError])
def test_an_interrupted_probe_cancels_its_batch_and_deletes_its_files(
    kind: type[BaseException], speaking: Callable[..., Speaking], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIALECT_KEY", KEY)
    provider = speaking("openai")
    provider.hold = True
    looks = iter(range(100))

    def sleep(_seconds: float) -> None:
        if next(looks) == 3:
            raise kind("stop")

    made = {"provider": "openai", "base_url": provider.url, "model": "tiny", "dimensions": 4}
    with pytest.raises(kind):
        probe(config(**made, api_key_env="DIALECT_KEY"), Options(clock=Clock(sleep=sleep)))
    (batch,) = provider.batches.values()
    assert batch["status"] == "cancelled"
    assert not any(name.startswith("file") for name in provider.files)


def test_one_that_is_interrupted_while_it_posts_looks_for_its_batch(
    speaking: Callable[..., Speaking], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIALECT_KEY", KEY)
    provider = speaking("openai")
    provider.hold = True
    create = BatchClient.create_batch

    def interrupted(self: BatchClient, *arguments: Any) -> None:
        create(self, *arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(BatchClient, "create_batch", interrupted)
    made = {"provider": "openai", "base_url": provider.url, "model": "tiny", "dimensions": 4}
    with pytest.raises(KeyboardInterrupt):
        probe(config(**made, api_key_env="DIALECT_KEY"))
    assert [batch["status"] for batch in provider.batches.values()] == ["cancelled"]


@pytest.mark.parametrize(
    ("fate", "words"),
    [
        ("model_not_found", "model_not_found it is"),
        ("token_limit_exceeded", "token_limit_exceeded"),
        ("expired", "expired"),
    ],
)
def test_a_batch_that_comes_to_nothing_is_told_in_the_providers_words(
    fate: str, words: str, probing: Callable[..., tuple[Probe, Speaking]]
) -> None:
    with pytest.raises(ProviderError, match=words):
        probing("openai", prepare=lambda provider: setattr(provider, "fates", [Fate(fate, share=0.0)] * 5))


def test_a_wrong_key_is_said(speaking: Callable[..., Speaking], monkeypatch: pytest.MonkeyPatch) -> None:
    provider = speaking("azure")
    monkeypatch.setenv("DIALECT_KEY", "sk-wrong")
    with pytest.raises(RefusedError) as raised:
        probe(config(provider="azure", base_url=provider.url, model="tiny", dimensions=4, api_key_env="DIALECT_KEY"))
    assert raised.value.status == 401 and "sk-wrong" not in str(raised.value)


def test_an_answer_that_makes_no_sense_is_no_sync_endpoint(probing: Callable[..., tuple[Probe, Speaking]]) -> None:
    found, _ = probing("openai", prepare=lambda one: one.script("POST", "/embeddings", say(b"<html>")))
    assert found.features.sync is False


def test_a_result_is_plain_data(probing: Callable[..., tuple[Probe, Speaking]]) -> None:
    found, _ = probing("openai")
    assert orjson.loads(orjson.dumps(asdict(found)))["features"]["base64"] is True
