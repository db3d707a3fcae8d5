"""Limits of an account, enforced: what does not fit beside what is enqueued fails, and fits once something has ended."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from embedfill.batchapi.limits import LOCAL, OPENAI
from embedfill.engine.settings import LimitSettings
from embedfill.engine.state.allowance import UNLIMITED, Allowance, allowance_of
from embedfill.engine.state.batches import Batches
from embedfill.engine.work.validate import Verdict, validate
from embedfill.errors import ConfigError, RefusedError
from tests.bench_fixtures import Bench, execute
from tests.chain_fixtures import Chain, documents
from tests.engine_fixtures import STATIC, EngineProcess, batch_body, jsonl, request_line

TEXTS = ["a text of some words", "another", "日本 <|endoftext|> émigré"]


def _lines(count: int, value: object = "one two three") -> bytes:
    return jsonl(request_line(f"r{n}", value) for n in range(count))


def _allowance(**limits: Any) -> Allowance:
    return allowance_of(LimitSettings(**limits))


@pytest.fixture
def limited(tmp_path: Path) -> Any:
    """Makes benches with these limits."""
    made: list[Bench] = []

    def make(**limits: Any) -> Bench:
        made.append(Bench(tmp_path, _allowance(**limits)))
        return made[-1]

    yield make
    for bench in made:
        bench.close()


def test_names() -> None:
    assert _allowance() == UNLIMITED == Allowance(LOCAL)
    tiers = [_allowance(like=f"openai-tier-{tier}") for tier in range(1, 6)]
    assert [tier.enqueued_tokens for tier in tiers] == [3_000_000, 20_000_000, 100_000_000, 500_000_000, 4_000_000_000]
    assert {(tier.limits, tier.counts_inputs) for tier in tiers} == {(OPENAI, True)}
    assert _allowance(like="openai-tier-1", batch_requests=5).limits.batch_requests == 5
    assert ({tier.release_delay_s for tier in tiers}, UNLIMITED.release_delay_s) == ({60}, 0)
    assert [_allowance(like="openai-tier-1", release_delay_s=s).release_delay_s for s in (0, 600)] == [0, 600]
    with pytest.raises(ConfigError, match=r"openai-tier-9.*openai-tier-1"):
        _allowance(like="openai-tier-9")


def test_tokens_are_those_that_the_model_takes(engine: EngineProcess, tmp_path: Path, limited: Any) -> None:
    data = jsonl([request_line("a", TEXTS), request_line("b", TEXTS[0]), request_line("c", [[1, 2, 3], [4]])])
    batch = engine.finished(engine.submit(data))
    assert _verdict(limited(enqueued_tokens=10**9), tmp_path / "f", data).tokens == batch["usage"]["input_tokens"] > 0


def test_nothing_is_counted_without_a_limit(tmp_path: Path, limited: Any) -> None:
    assert _verdict(limited(), tmp_path / "f", _lines(3)).tokens == 0


def _verdict(bench: Bench, path: Path, data: bytes) -> Verdict:
    path.write_bytes(data)
    found = validate(path, "/v1/embeddings", bench.served, lambda: False, bench.allowance)
    assert found is not None
    return found


def test_what_does_not_fit_fails_and_fits_later(limited: Any) -> None:
    bench = limited(enqueued_tokens=100)
    first, second = bench.batch(_lines(20)), bench.batch(_lines(20))
    failed = bench.get(second)
    assert failed.errors is not None
    (error,) = failed.errors.data
    assert (failed.status, error.code, error.line) == ("failed", "token_limit_exceeded", None)
    assert error.message == (
        f"Enqueued token limit reached for {STATIC}. Limit: 100 enqueued tokens. "
        "Please try again once some in_progress batches have been completed."
    )
    assert not bench.spools.input(second).exists()
    bench.end(first)
    assert bench.get(bench.batch(_lines(20))).status == "in_progress"


def test_what_is_enqueued_outlives_the_engine(limited: Any) -> None:
    bench = limited(enqueued_tokens=100)
    bench.batch(_lines(20))
    again = Batches(bench.database, bench.allowance)
    assert not again.accept(bench.batch(_lines(1), valid=False), STATIC, 1, 80)


def test_limits_are_of_one_key_and_one_model(limited: Any) -> None:
    bench = limited(enqueued_tokens=100)
    bench.batch(_lines(20), owner="us")
    assert bench.get(bench.batch(_lines(20), owner="us")).status == "failed"
    assert bench.get(bench.batch(_lines(20), owner="them")).status == "in_progress"
    other = jsonl(request_line(f"r{n}", "one two three", "all-MiniLM-L6-v2") for n in range(15))
    assert bench.get(bench.batch(other, owner="us")).status == "in_progress"


def test_what_has_ended_may_count_for_a_while(limited: Any) -> None:
    bench = limited(enqueued_tokens=100, release_delay_s=600)
    first = bench.batch(_lines(20))
    bench.end(first)
    assert bench.get(bench.batch(_lines(20))).status == "failed"
    execute(bench.root, "UPDATE batches SET completed_at = completed_at - 601 WHERE id = ?", first)
    assert bench.get(bench.batch(_lines(20))).status == "in_progress"


def test_a_cancelled_batch_needs_no_room(limited: Any) -> None:
    bench = limited(enqueued_tokens=1)
    batch_id = bench.batch(_lines(20), valid=False)
    bench.batches.cancel(batch_id, "")
    assert bench.validator.step()
    bench.end(batch_id)
    batch = bench.get(batch_id)
    assert (batch.status, len(bench.lines(batch.error_file_id))) == ("cancelled", 20)


def test_many_at_once_never_exceed_the_limit(limited: Any) -> None:
    bench = limited(enqueued_tokens=100)
    waiting = [bench.batch(_lines(1), valid=False) for _ in range(40)]
    fits: list[bool] = []
    threads = [
        threading.Thread(target=lambda one=one: fits.append(bench.batches.accept(one, STATIC, 1, 30)))
        for one in waiting
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(fits) == 3 and len(fits) == 40


def test_enqueued_requests_and_inputs_and_lines(limited: Any) -> None:
    bench = limited(enqueued_requests=5, batch_inputs=10, batch_requests=4)
    assert bench.get(bench.batch(_lines(4))).status == "in_progress"
    assert _codes(bench, _lines(2)) == ["token_limit_exceeded"]
    assert _codes(bench, _lines(5)) == ["too_many_tasks"]
    assert _codes(bench, _lines(2, ["text"] * 6)) == ["too_many_tasks"]
    assert bench.get(bench.batch(_lines(1, ["text"] * 10))).status == "in_progress"


def _codes(bench: Bench, data: bytes) -> list[str | None]:
    batch = bench.get(bench.batch(data))
    assert batch.status == "failed" and batch.errors is not None
    return [error.code for error in batch.errors.data]


def test_batches_of_an_hour(limited: Any) -> None:
    bench = limited(batches_per_hour=2)
    first, second = bench.create("file-x", "us", "key"), bench.create("file-x", "us")
    execute(bench.root, "UPDATE batches SET created_at = created_at - 600 WHERE id = ?", first)
    with pytest.raises(RefusedError) as refused:
        bench.create("file-x", "us")
    assert (refused.value.status, refused.value.code) == (429, "rate_limit_exceeded")
    assert refused.value.retry_after_s is not None and 2_990 <= refused.value.retry_after_s <= 3_000
    assert bench.create("file-x", "us", "key") == first  # makes none
    bench.create("file-x", "them")
    execute(bench.root, "UPDATE batches SET created_at = created_at - 3001 WHERE id = ?", first)
    bench.create("file-x", "us")
    assert second


@pytest.fixture
def account(new_engine: Callable[..., EngineProcess], tmp_path: Path) -> Callable[..., EngineProcess]:
    """Starts an engine with these limits."""

    def start(**limits: int) -> EngineProcess:
        (tmp_path / "engine.toml").write_text(
            "[engine.limits]\n" + "".join(f"{key} = {value}\n" for key, value in limits.items())
        )
        return new_engine("--config", str(tmp_path / "engine.toml")).start("--model", STATIC)

    return start


def test_limits_over_http(account: Callable[..., EngineProcess]) -> None:
    engine = account(enqueued_tokens=100, batches_per_hour=2, request_tokens=10)
    batch = engine.finished(engine.submit(_lines(60)))
    assert [(error["code"], error["line"]) for error in batch["errors"]["data"]] == [("token_limit_exceeded", None)]
    assert (batch["request_counts"]["total"], batch["in_progress_at"]) == (0, None)
    batch = engine.finished(engine.submit(_lines(1, ["one two three"] * 6)))
    (line,) = engine.lines(batch["error_file_id"])
    assert "10 tokens in all" in line["response"]["body"]["error"]["message"]
    refused = engine.post("/batches", json=batch_body("file-x"))
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["type"]) == (429, "rate_limit_exceeded", "rate_limit_error")
    assert 3_000 < int(refused.headers["retry-after"]) <= 3_600


@pytest.mark.parametrize("known", [True, False])
def test_a_run_gets_through_a_corpus_larger_than_the_account(
    chain: Chain, account: Callable[..., EngineProcess], monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """Our own client against a real engine that holds it to 600 tokens at once, whether it knows that or has to find
    out; the corpus has some 3,000."""
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    engine = account(enqueued_tokens=600)
    chain.write(documents(range(200)))
    embedding = {
        "provider": "generic", "base_url": engine.url, "model": STATIC, "dimensions": 256, "tokenizer": STATIC,
        "price_per_million": 0.01,
    }  # fmt: skip
    batch = {
        "max_inputs": 50,
        "inputs_per_request": 5,
        "poll_s": 0.02,
        **({"max_enqueued_tokens": 600} if known else {}),
    }
    summary = chain.run(embedding=embedding, batch=batch)
    assert (summary.texts, summary.embedded, summary.rejected) == (200, 200, 0)
    batches = engine.get("/batches?limit=100").json()["data"]
    done = sum(one["usage"]["input_tokens"] for one in batches if one["status"] == "completed")
    assert done > 4 * 600
    assert {one["status"] for one in batches} <= {"completed", "failed"}
    if known:  # then it never asks for too much
        assert {one["status"] for one in batches} == {"completed"}
