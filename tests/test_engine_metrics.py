"""/metrics: numbers that follow what the engine did, in a form that Prometheus reads, with few labels."""

import time
from collections.abc import Callable
from pathlib import Path

import httpx
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from embedfill.engine.state.database import Database
from embedfill.engine.telemetry.metrics import Metrics
from tests.engine_fixtures import STATIC, EngineProcess, jsonl, request_line

Samples = dict[tuple[str, tuple[str, ...]], float]


def samples(text: str) -> Samples:
    """Values by name and label values, these by the names of the labels."""
    return {
        (sample.name, tuple(value for _label, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def ask(engine: EngineProcess) -> Samples:
    response = engine.http.get(engine.url.removesuffix("/v1") + "/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    return samples(response.raise_for_status().text)


def more(before: Samples, after: Samples, name: str, *labels: str) -> float:
    return after[name, labels] - before.get((name, labels), 0.0)


def test_a_batch_moves_the_numbers(engine: EngineProcess) -> None:
    before = ask(engine)
    good = [request_line(f"r{n}", ["two", f"texts {n}"]) for n in range(3)]
    batch = engine.finished(engine.submit(jsonl([*good, request_line("bad", 7)])))
    assert batch["request_counts"] == {"total": 4, "completed": 3, "failed": 1}
    after = ask(engine)
    for status in ("validating", "in_progress", "finalizing", "completed"):
        assert more(before, after, "embedfill_batch_transitions_total", status) == 1
    assert more(before, after, "embedfill_batches", "completed") == 1
    assert more(before, after, "embedfill_lines_total", "completed") == 3
    assert more(before, after, "embedfill_lines_total", "failed") == 1
    assert more(before, after, "embedfill_line_tokens_total", "input") == batch["usage"]["total_tokens"]
    assert more(before, after, "embedfill_forward_inputs_total", STATIC) >= 4
    assert more(before, after, "embedfill_forward_seconds_count", STATIC) >= 1
    assert more(before, after, "embedfill_http_request_seconds_count", "POST", "/batches", "200") == 1
    assert more(before, after, "embedfill_http_response_bytes_total") > 1000
    assert more(before, after, "embedfill_database_commit_changes_sum") >= 6
    assert after["embedfill_lines_waiting", ()] == 0
    assert after["embedfill_disk_free_bytes", ()] > 0 and after["process_cpu_seconds_total", ()] > 0


def test_no_label_is_a_clients_word(engine: EngineProcess) -> None:
    base = engine.url.removesuffix("/v1")
    before = ask(engine)
    engine.get("/files/file-secret")
    engine.get("/batches/batch-secret/cancel")
    httpx.request("SECRET", base + "/v1/files")
    httpx.get(base + "/secret/path?secret=1")
    after = ask(engine)
    assert more(before, after, "embedfill_http_request_seconds_count", "GET", "/files/{id}", "404") == 1
    assert more(before, after, "embedfill_http_request_seconds_count", "GET", "/batches/{id}/cancel", "405") == 1
    assert more(before, after, "embedfill_http_request_seconds_count", "GET", "other", "404") == 1
    assert not any("secret" in label.lower() for _name, labels in after for label in labels)


def test_the_numbers_need_a_key_where_there_is_one(new_engine: Callable[..., EngineProcess]) -> None:
    engine = new_engine("--api-key", "sk-key").start()
    url = engine.url.removesuffix("/v1") + "/metrics"
    assert httpx.get(url).status_code == 401
    good = httpx.get(url, headers={"Authorization": "Bearer sk-key"})
    assert good.status_code == 200
    assert samples(good.text)["embedfill_http_request_seconds_count", ("GET", "other", "401")] == 1


def test_two_engines_of_one_process_count_apart() -> None:
    one, two = Metrics(), Metrics()
    one.lines(3, 1, 20, 5)
    one.upstream("gpt-*", "200", 0.5)
    one.webhook("batch.completed", "timeout")
    found, other = (samples(generate_latest(each.registry).decode()) for each in (one, two))
    assert found["embedfill_lines_total", ("failed",)] == 1
    assert found["embedfill_line_tokens_total", ("output",)] == 5
    assert found["embedfill_upstream_seconds_sum", ("200", "gpt-*")] == 0.5
    assert found["embedfill_webhooks_total", ("batch.completed", "timeout")] == 1
    assert ("embedfill_lines_total", ("failed",)) not in other


def test_a_number_that_cannot_be_read_leaves_the_others() -> None:
    metrics = Metrics()

    def fail() -> dict[tuple[str, ...], float]:
        raise OSError("gone")

    metrics.watch("broken", "Broken", fail)
    metrics.watch("whole", "Whole", lambda: {("a",): 2.0}, "letter")
    found = samples(generate_latest(metrics.registry).decode())
    assert found["embedfill_whole", ("a",)] == 2.0
    assert not any(name == "embedfill_broken" for name, _labels in found)


def test_transactions_are_timed(tmp_path: Path) -> None:
    metrics = Metrics()
    database = Database(tmp_path / "engine.db", metrics)
    database.write(lambda _connection: time.sleep(0.02)).result()
    database.close()
    found = samples(generate_latest(metrics.registry).decode())
    assert (
        found["embedfill_database_commit_seconds_count", ()] == found["embedfill_database_commit_changes_sum", ()] == 1
    )
    assert found["embedfill_database_commit_seconds_sum", ()] >= 0.02
