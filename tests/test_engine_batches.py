"""The life of a batch: its rules at creation, its statuses and timestamps, its ends."""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from embedfill.batchapi.models import BatchError
from embedfill.engine.work.pool import Runner
from embedfill.errors import RefusedError
from embedfill.models.base import Vectors
from embedfill.models.load import load
from tests.bench_fixtures import Bench, execute, let_expire, runs
from tests.engine_fixtures import STATIC, EngineProcess, batch_body, jsonl, request_line, texts

KEYS = {
    *("id", "object", "endpoint", "model", "errors", "input_file_id", "completion_window", "status", "metadata"),
    *("output_file_id", "error_file_id", "request_counts", "usage", "created_at", "in_progress_at", "expires_at"),
    *("finalizing_at", "completed_at", "failed_at", "expired_at", "cancelling_at", "cancelled_at"),
}


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"input_file_id": None}, "input_file_id", "missing_required_parameter"),
        ({"input_file_id": 7}, "input_file_id", "invalid_type"),
        ({"endpoint": "/v1/images/generations"}, "endpoint", "invalid_value"),
        ({"completion_window": "1h"}, "completion_window", "invalid_value"),
        ({"metadata": "text"}, "metadata", "invalid_type"),
        ({"metadata": {"try": 1}}, "metadata.try", "invalid_type"),
        ({"metadata": {"k" * 65: "v"}}, "metadata." + "k" * 65, "string_above_max_length"),
        ({"metadata": {"k": "v" * 513}}, "metadata.k", "string_above_max_length"),
        ({"metadata": {str(n): "v" for n in range(17)}}, "metadata", "object_above_max_properties"),
        (
            {"output_expires_after": {"anchor": "created_at", "seconds": 1}},
            "output_expires_after.seconds",
            "invalid_value",
        ),
    ],
)
def test_a_bad_batch_is_refused(engine: EngineProcess, body: dict[str, Any], param: str, code: str) -> None:
    response = engine.post("/batches", json={**batch_body("file-x"), **body})
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, param, code)


def test_the_largest_metadata_passes_and_every_key_is_there(engine: EngineProcess) -> None:
    metadata = {f"{n:064}": "v" * 512 for n in range(16)}
    made = engine.post("/batches", json=batch_body("file-x", metadata=metadata)).raise_for_status().json()
    assert made["metadata"] == metadata
    assert set(made) == KEYS
    assert set(engine.finished(made["id"])) == KEYS


def test_list_limits(engine: EngineProcess) -> None:
    for query in ("limit=0", "limit=101", "limit=x", "limit=-1"):
        response = engine.get(f"/batches?{query}")
        assert (response.status_code, response.json()["error"]["param"]) == (400, "limit")
    assert engine.get("/files?order=up").status_code == 400


def test_an_idempotency_key_makes_one_batch(engine: EngineProcess) -> None:
    headers = {"Idempotency-Key": f"key-{time.time_ns()}"}
    first = engine.post("/batches", json=batch_body("file-x"), headers=headers).raise_for_status().json()
    again = engine.post("/batches", json=batch_body("file-x"), headers=headers).raise_for_status().json()
    assert again["id"] == first["id"]
    other = engine.post("/batches", json=batch_body("file-y"), headers=headers)
    assert other.status_code == 409
    assert engine.post("/batches", json=batch_body("file-x")).json()["id"] != first["id"]


def test_failed_requests_go_to_the_error_file(engine: EngineProcess) -> None:
    lines = [
        request_line("good", ["a text", "another"], encoding_format="float", dimensions=64),
        request_line("empty", ""),
        request_line("long", ["short", "word " * 3000]),
        request_line("none", []),
    ]
    batch = engine.finished(engine.submit(jsonl(lines)))
    assert batch["status"] == "completed"
    assert batch["request_counts"] == {"total": 4, "completed": 1, "failed": 3}
    (good,) = engine.lines(batch["output_file_id"])
    assert (good["custom_id"], good["error"], good["response"]["status_code"]) == ("good", None, 200)
    body = good["response"]["body"]
    assert [(item["object"], item["index"], len(item["embedding"])) for item in body["data"]] == [
        ("embedding", 0, 64),
        ("embedding", 1, 64),
    ]
    assert body["usage"]["prompt_tokens"] == batch["usage"]["input_tokens"] == batch["usage"]["total_tokens"]
    errors = {line["custom_id"]: line for line in engine.lines(batch["error_file_id"])}
    assert errors.keys() == {"empty", "long", "none"}
    for line in errors.values():
        assert (line["error"], line["response"]["status_code"]) == (None, 400)
    assert errors["long"]["response"]["body"]["error"]["code"] == "context_length_exceeded"
    only_errors = engine.finished(engine.submit(jsonl(lines[1:])))
    assert (only_errors["status"], only_errors["output_file_id"]) == ("completed", None)
    for file_id in (batch["output_file_id"], batch["error_file_id"]):
        assert engine.get(f"/files/{file_id}").json()["purpose"] == "batch_output"


DATA = jsonl(request_line(f"r{n}", list(texts(5, n * 5))) for n in range(1000))


@pytest.mark.parametrize("how", ["cancelled", "expired"])
def test_a_batch_that_ends_early_accounts_for_every_line(bench: Bench, how: str) -> None:
    batch_id = bench.batch(DATA)
    bench.step_until_moving(batch_id)
    if how == "cancelled":
        assert bench.batches.cancel(batch_id, "").status == "cancelling"
    else:
        let_expire(bench.root, batch_id)
    bench.end(batch_id)
    batch = bench.batches.get(batch_id, "")
    output, errors = bench.lines(batch.output_file_id), bench.lines(batch.error_file_id)
    assert batch.status == how
    assert 0 < len(output) < 1000
    assert sorted(line["custom_id"] for line in output + errors) == sorted(f"r{n}" for n in range(1000))
    assert {(line["response"], line["error"]["code"]) for line in errors} == {(None, f"batch_{how}")}
    assert batch.request_counts is not None
    assert (batch.request_counts.completed, batch.request_counts.failed) == (len(output), len(errors))
    assert getattr(batch, f"{how}_at") >= batch.created_at
    assert runs(bench.root) == {1: len(output), 0: len(errors)}
    assert list((bench.root / "spool").iterdir()) == []


def test_a_batch_cancelled_before_it_ran(bench: Bench) -> None:
    batch_id = bench.batch(DATA)
    bench.batches.cancel(batch_id, "")
    bench.end(batch_id)
    batch = bench.batches.get(batch_id, "")
    assert (batch.status, batch.output_file_id) == ("cancelled", None)
    assert len(bench.lines(batch.error_file_id)) == 1000


def test_a_batch_cancelled_while_it_is_validated(bench: Bench) -> None:
    good, bad = bench.batch(DATA, valid=False), bench.batch(DATA, valid=False)
    for batch_id in (good, bad):
        assert bench.batches.cancel(batch_id, "").status == "cancelling"
    assert not bench.worker.step()  # how many lines there are is not known yet
    bench.batches.accept(good, STATIC, 1000)
    bench.batches.refuse(bad, [BatchError(code="empty_file")], None)
    assert bench.batches.get(bad, "").status == "cancelled"
    bench.end(good)
    batch = bench.batches.get(good, "")
    assert (batch.status, batch.in_progress_at) == ("cancelled", None)
    assert len(bench.lines(batch.error_file_id)) == 1000


def test_a_cancel_during_the_last_window_wins(bench: Bench) -> None:
    batch_id = bench.batch(jsonl([request_line("a", "text")]))
    bench.worker.step()
    bench.batches.cancel(batch_id, "")
    bench.end(batch_id)
    batch = bench.batches.get(batch_id, "")
    assert (batch.status, len(bench.lines(batch.output_file_id)), batch.error_file_id) == ("cancelled", 1, None)


def test_a_cancel_after_finalizing_began_changes_nothing(bench: Bench) -> None:
    batch_id = bench.batch(jsonl([request_line("a", "text")]))
    bench.worker.step()
    assert bench.batches.finalize(batch_id)
    assert bench.batches.cancel(batch_id, "").status == "finalizing"
    bench.end(batch_id)
    assert bench.batches.get(batch_id, "").status == "completed"


def test_no_way_out_of_an_end(bench: Bench) -> None:
    batch_id = bench.batch(jsonl([request_line("a", "text")]))
    bench.end(batch_id)
    before = bench.batches.get(batch_id, "")
    with pytest.raises(RefusedError) as refused:
        bench.batches.cancel(batch_id, "")
    assert refused.value.status == 409
    bench.batches.refuse(batch_id, [BatchError(code="late")], None)
    assert not bench.batches.finalize(batch_id)
    assert not bench.batches.end(batch_id, "in_progress", "expired", None, None)
    assert bench.batches.get(batch_id, "") == before


def test_timestamps_never_run_back(bench: Bench) -> None:
    batch_id = bench.batch(jsonl([request_line("a", "text")]))
    ahead = int(time.time()) + 5_000
    execute(bench.root, "UPDATE batches SET in_progress_at = ? WHERE id = ?", ahead, batch_id)
    bench.end(batch_id)
    batch = bench.batches.get(batch_id, "")
    assert (batch.finalizing_at, batch.completed_at) == (ahead, ahead)


def test_many_small_batches_share_windows(bench: Bench) -> None:
    made = [bench.batch(jsonl([request_line("a", f"text {n}")])) for n in range(50)]
    bench.worker.step()
    bench.database.write(lambda connection: None).result()  # what was handed in before is on disk now
    assert [bench.completed(batch_id) for batch_id in made] == [1] * 50
    bench.end(made[-1])
    assert {bench.batches.get(batch_id, "").status for batch_id in made} == {"completed"}


def test_a_half_written_line_is_cut_off(bench: Bench, tmp_path: Path) -> None:
    batch_id = bench.batch(DATA)
    done = bench.step_until_moving(batch_id)
    bench.close()
    spool = tmp_path / "spool" / batch_id / "output"
    recorded = spool.read_bytes()
    spool.write_bytes(recorded + b'{"id": "written, but not recorded')
    again = Bench(tmp_path)
    again.end(batch_id)
    batch = again.batches.get(batch_id, "")
    assert batch.output_file_id is not None
    content = again.files.path(batch.output_file_id).read_bytes()
    assert content.startswith(recorded)
    assert 0 < done < 1000 == len(again.lines(batch.output_file_id))
    assert runs(tmp_path) == {1: 1000}
    again.worker.close()
    bench.database, bench.worker = again.database, again.worker


class Brittle:
    """The static model, but it fails at one token."""

    def __init__(self, token: int) -> None:
        self._model = load(STATIC)
        self._token = token
        self.name, self.dimensions, self.max_tokens = STATIC, 256, 2048
        self.shorter_dimensions, self.tokenizer = self._model.shorter_dimensions, self._model.tokenizer

    def embed(self, inputs: Sequence[str | Sequence[int]]) -> Vectors:
        if any(self._token in item for item in inputs if not isinstance(item, str)):
            raise ValueError("no such token")
        return self._model.embed(inputs)


def test_a_request_that_breaks_the_model_fails_alone(bench: Bench) -> None:
    bench.pool._runners[STATIC] = Runner(Brittle(31_999))
    batch_id = bench.batch(jsonl(request_line(f"r{n}", [n, 31_999 if n == 7 else 5]) for n in range(1, 20)))
    bench.end(batch_id)
    batch = bench.batches.get(batch_id, "")
    (error,) = bench.lines(batch.error_file_id)
    assert (error["custom_id"], error["response"]["status_code"]) == ("r7", 500)
    assert "no such token" in error["response"]["body"]["error"]["message"]
    assert len(bench.lines(batch.output_file_id)) == 18


def test_a_race_of_cancels_with_the_end_has_one_winner(bench: Bench) -> None:
    """Whoever is first: the answer to the cancel, the end and the lines agree."""
    for pause in [0.0, 0.001, 0.002, 0.004] * 4:
        batch_id = bench.batch(jsonl(request_line(f"r{n}", "text") for n in range(20)))
        answers: list[str] = []
        cancel = threading.Thread(target=lambda: answers.append(_cancelled(bench, batch_id)))  # noqa: B023
        cancel.start()
        time.sleep(pause)
        bench.end(batch_id)
        cancel.join()
        batch = bench.get(batch_id)
        expected = {"cancelling": "cancelled", "cancelled": "cancelled", "finalizing": "completed", "409": "completed"}
        assert expected[answers[0]] == batch.status
        lines = bench.lines(batch.output_file_id) + bench.lines(batch.error_file_id)
        assert sorted(line["custom_id"] for line in lines) == sorted(f"r{n}" for n in range(20))
    assert sum(1 for _ in (bench.root / "files").iterdir()) == execute(bench.root, "SELECT count(*) FROM files")[0][0]


def _cancelled(bench: Bench, batch_id: str) -> str:
    try:
        return bench.batches.cancel(batch_id, "").status
    except RefusedError as refused:
        return str(refused.status)


def test_an_input_of_somebody_else_is_not_found(bench: Bench) -> None:
    theirs = bench.file(DATA, "them")
    batch_id = bench.create(theirs, "us")
    assert bench.validator.step()
    batch = bench.get(batch_id)
    assert batch.errors is not None
    (error,) = batch.errors.data
    assert (batch.status, error.code, error.line) == ("failed", "invalid_request", None)
    assert "No such File" in str(error.message)


def test_owners_take_turns_in_validation(bench: Bench) -> None:
    many = [bench.create(bench.file(DATA, "many"), "many") for _ in range(5)]
    few = bench.create(bench.file(DATA, "few"), "few")
    order = []
    for _ in range(6):
        assert bench.validator.step()
        order += [one for one in (*many, few) if one not in order and bench.get(one).status == "in_progress"]
    assert order == [many[0], few, *many[1:]]
    assert not bench.validator.step()


def test_a_batch_whose_window_passes_before_it_is_validated_expires_whole(bench: Bench) -> None:
    batch_id = bench.create(bench.file(DATA), window_s=-1)
    assert bench.validator.step()
    bench.end(batch_id)
    batch = bench.get(batch_id)
    assert (batch.status, batch.output_file_id, len(bench.lines(batch.error_file_id))) == ("expired", None, 1000)
    assert runs(bench.root) == {0: 1000}


def test_the_same_idempotency_key_of_two_owners(bench: Bench) -> None:
    mine, theirs = (bench.create("file-x", owner, "key") for owner in ("us", "them"))
    assert mine != theirs
    assert bench.create("file-x", "us", "key") == mine


def test_very_many_errors_are_all_there_but_not_in_lists(bench: Bench) -> None:
    batch_id = bench.batch(b"{}\n" + b"no json\n" * 3_000)
    (listed,) = bench.batches.page(None, 20, "").data
    errors = bench.get(batch_id).errors
    assert errors is not None
    assert [error.line for error in errors.data] == list(range(1, 3_002))
    assert [error["line"] for error in listed["errors"]["data"]] == [*range(1, 101), None]
    assert "2901 more" in listed["errors"]["data"][-1]["message"]


def test_outputs_expire_when_the_batch_says(engine: EngineProcess) -> None:
    kept = {"anchor": "created_at", "seconds": 3_600}
    batch = engine.finished(engine.submit(jsonl([request_line("a", "text")]), output_expires_after=kept))
    file = engine.get(f"/files/{batch['output_file_id']}").json()
    assert file["expires_at"] == file["created_at"] + 3_600


def test_thousands_of_open_batches_are_looked_through_at_once(bench: Bench) -> None:
    """Not by going through those that have ended."""
    for query in (bench.batches.active, bench.batches.unvalidated):
        traced = _plan(bench, query)
        assert any("batches_by_status" in step for step in traced), traced


def _plan(bench: Bench, query: Callable[[], object]) -> list[str]:
    statements: list[str] = []
    with bench.database.read() as connection:
        connection.set_trace_callback(statements.append)
    query()
    with bench.database.read() as connection:
        connection.set_trace_callback(None)
        return [row["detail"] for row in connection.execute(f"EXPLAIN QUERY PLAN {statements[0]}").fetchall()]
