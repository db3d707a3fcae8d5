"""Several batches at once: shared by owners and models, nearest deadline first; what cannot be run ends all the same."""

from typing import Any

import pytest

from embedfill.batchapi.models import EMBEDDINGS
from embedfill.engine.work import jobs as jobs_module
from embedfill.engine.work import rehearsal
from embedfill.engine.work import worker as worker_module
from embedfill.engine.work.job import never_run
from embedfill.engine.work.served import Served
from embedfill.errors import ModelError
from embedfill.models.base import Model
from tests.bench_fixtures import Bench, execute, runs
from tests.engine_fixtures import STATIC, jsonl, request_line, texts

SMALL = "text-embedding-3-small"
ADA = "text-embedding-ada-002"
LINES = 500


def _data(lines: int = LINES, model: str = STATIC, start: int = 0, words: int = 20) -> bytes:
    """About 200 bytes a line: a first window holds some eighty."""
    rows = texts(lines, start)
    return jsonl(request_line(f"r{n}", row + " word" * words, model, dimensions=64) for n, row in enumerate(rows))


@pytest.fixture
def stage(bench: Bench) -> Bench:
    """Knows two stand-ins, beside the static model."""
    for name in (SMALL, ADA):
        bench.pool.add(name, rehearsal.maker(name))
    served = Served(bench.pool.names, {})
    bench.served = bench.validator._served = served
    return bench


def _settled(stage: Bench, batch_id: str) -> int:
    stage.database.write(lambda connection: None).result()  # what was handed in before is on disk now
    return stage.completed(batch_id)


def test_an_owner_who_comes_late_does_not_wait_for_the_others(stage: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "_WINDOW_LINES", 50)
    early = [stage.batch(_data(start=n * LINES), owner="early") for n in range(3)]
    stage.step_until_moving(early[0])
    late = stage.batch(_data(200, start=9 * LINES), owner="late")
    before = sum(_settled(stage, batch) for batch in early)
    while not stage.get(late).ended:
        stage.worker.step()
    meanwhile = sum(_settled(stage, batch) for batch in early) - before
    assert 50 <= meanwhile <= 400  # its share, and a window or two more or less
    for batch in early:
        stage.end(batch)
    assert runs(stage.root) == {1: 3 * LINES + 200}


def test_a_window_ends_where_its_vectors_would_take_too_much(stage: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "_WINDOW_FLOATS", 10 * 256)
    batch = stage.batch(jsonl(request_line(f"r{n}", list(texts(4, 4 * n))) for n in range(8)))
    assert stage.worker.step()
    assert _settled(stage, batch) == 3
    stage.end(batch)


def test_models_take_turns(stage: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "_WINDOW_LINES", 100)
    first, second = stage.batch(_data()), stage.batch(_data(model=SMALL))
    for _ in range(4):
        stage.worker.step()
    assert 0 < _settled(stage, first) < LINES and 0 < _settled(stage, second) < LINES
    stage.end(first)
    stage.end(second)
    assert runs(stage.root) == {1: 2 * LINES}


def test_the_nearest_deadline_of_an_owner_goes_first(stage: Bench) -> None:
    slow, urgent = stage.batch(_data()), stage.batch(_data(200, start=LINES))
    execute(stage.root, "UPDATE batches SET expires_at = expires_at - 3600 WHERE id = ?", urgent)
    while not _settled(stage, slow):
        stage.worker.step()
    assert _settled(stage, urgent) == 200


def test_many_batches_of_one_owner_keep_out_nobody(stage: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """And those that were pushed out go on where they were."""
    monkeypatch.setattr(jobs_module, "_OPEN_BATCHES", 3)
    monkeypatch.setattr(worker_module, "_WINDOW_LINES", 100)
    many = [stage.batch(_data(600, start=n * 600), owner="many") for n in range(3)]
    stage.worker.step()
    _first, second, _third = stage.worker._jobs.running()
    item = second.take()
    assert item is not None
    second.put([never_run(item, "x", "y")])
    others = [stage.batch(_data(100, start=4000 + n * 100), owner=f"other {n}") for n in range(2)]
    assert [job.batch.owner for job in stage.worker._jobs.running()] == ["many", "other 0", "other 1"]
    assert set(stage.worker._jobs._open) == {job.batch.id for job in stage.worker._jobs.running()}
    for batch in others:
        stage.end(batch)
    assert not stage.get(many[0]).ended
    for batch in (*others, *many):
        stage.end(batch)
        counts = stage.get(batch).request_counts
        assert counts is not None and counts.completed + counts.failed == counts.total
        lines = stage.lines(stage.get(batch).output_file_id) + stage.lines(stage.get(batch).error_file_id)
        assert sorted(line["custom_id"] for line in lines) == sorted(f"r{n}" for n in range(counts.total))
    assert runs(stage.root) == {1: 1999, 0: 1}


def _refused(stage: Bench, batch_id: str) -> list[dict[str, Any]]:
    """The error lines of a batch that ended with nothing else."""
    stage.end(batch_id)
    batch = stage.get(batch_id)
    assert (batch.status, batch.output_file_id) == ("completed", None)
    lines = stage.lines(batch.error_file_id)
    assert batch.request_counts is not None
    assert batch.request_counts.failed == batch.request_counts.total == len(lines)
    return lines


def test_a_model_that_is_no_longer_served(stage: Bench) -> None:
    batch, other = stage.batch(_data(300, SMALL)), stage.batch(_data(10))
    del stage.pool._makers[SMALL]  # as after a start without `rehearse`
    lines = _refused(stage, batch)
    assert {line["response"]["status_code"] for line in lines} == {404}
    assert {line["response"]["body"]["error"]["code"] for line in lines} == {"model_not_found"}
    stage.end(other)
    assert stage.completed(other) == 10


@pytest.mark.parametrize("error", [ModelError("gone", "install it"), OSError("no file"), RuntimeError("no room")])
def test_a_model_that_cannot_be_loaded(stage: Bench, error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    def make() -> Model:
        raise error

    stage.pool.add(SMALL, make)
    lines = _refused(stage, stage.batch(_data(20, SMALL)))
    (body,) = {str(line["response"]["body"]["error"]["message"]) for line in lines}
    assert body == f"The model '{SMALL}' cannot be loaded; the engine's log says why."
    told = [record.__dict__["fields"] for record in caplog.records if record.levelname == "ERROR"]
    assert [str(error) in one["reason"] for one in told] == [True]


def test_an_endpoint_that_is_no_longer_served(stage: Bench) -> None:
    """Its route has gone from the configuration; the model is a local one, too."""
    batch, good = stage.batch(_data(20)), stage.batch(_data(20))
    execute(stage.root, "UPDATE batches SET endpoint = '/v1/chat/completions' WHERE id = ?", batch)
    lines = _refused(stage, batch)
    assert "/v1/chat/completions" in lines[0]["response"]["body"]["error"]["message"]
    stage.end(good)
    assert stage.get(good).endpoint == EMBEDDINGS and stage.completed(good) == 20
