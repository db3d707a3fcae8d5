"""SIGKILL at random points of a running batch: it is finished after a restart, and no finished line is run again."""

import random
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pybase64

from embedfill.models.load import load
from tests.engine_fixtures import ENDED, STATIC, EngineProcess, jsonl, request_line, texts, until

LINES, INPUTS, KILLS = 4_000, 6, 7


def _recorded(data: Path, batch_id: str) -> tuple[int, bytes]:
    """Finished lines of the batch, and the bytes of their results."""
    connection = sqlite3.connect(data / "engine.db")
    query = "SELECT count(*), coalesce(max(stop), 0) FROM lines JOIN batches ON seq = batch WHERE id = ?"
    finished, stop = connection.execute(query, (batch_id,)).fetchone()
    connection.close()
    spool = data / "spool" / batch_id / "output"
    return finished, spool.read_bytes()[:stop] if spool.exists() else b""


def _rows(data: Path, query: str) -> list[tuple[int, ...]]:
    connection = sqlite3.connect(data / "engine.db")
    rows = connection.execute(query).fetchall()
    connection.close()
    return rows


def test_killed_at_random_points(new_engine: Callable[..., EngineProcess]) -> None:
    chance = random.Random(1)
    rows = texts(LINES * INPUTS)
    inputs = [rows[n * INPUTS : (n + 1) * INPUTS] for n in range(LINES)]
    engine = new_engine("--model", STATIC).start()
    batch_id = engine.submit(
        jsonl(request_line(f"r{n}", list(values), encoding_format="base64") for n, values in enumerate(inputs))
    )
    before, midway = (0, b""), 0
    for kill in range(KILLS):
        goal = before[0] + chance.randrange(LINES // KILLS) if kill else 0
        until(
            lambda: engine.batch(batch_id),
            lambda b, goal=goal: b["status"] in ENDED or b["request_counts"]["completed"] >= goal,
        )
        engine.kill()
        after = _recorded(engine.data, batch_id)
        midway += 0 < after[0] < LINES
        if after[1]:  # the spool is still there: what had been finished stands as it stood
            assert after[0] >= before[0] and after[1].startswith(before[1])
            before = after
        engine.start()
    assert midway >= KILLS // 2
    batch = engine.finished(batch_id)
    assert batch["status"] == "completed"
    assert batch["request_counts"] == {"total": LINES, "completed": LINES, "failed": 0}
    content = engine.get(f"/files/{batch['output_file_id']}/content").content
    assert content.startswith(before[1])
    assert _rows(engine.data, "SELECT runs, count(*) FROM lines GROUP BY runs") == [(1, LINES)]
    _check_vectors(engine.lines(batch["output_file_id"]), inputs, batch["usage"]["total_tokens"])
    assert sorted(path.name for path in (engine.data / "spool").iterdir()) == []
    assert len(list((engine.data / "files").iterdir())) == 2


def _check_vectors(lines: list[dict[str, object]], inputs: list[object], tokens: int) -> None:
    """Every request once, with the vectors of a direct model call."""
    assert Counter(line["custom_id"] for line in lines) == Counter(f"r{n}" for n in range(LINES))
    found = np.empty((LINES, INPUTS, 256), np.float32)
    used = 0
    for line in lines:
        body = line["response"]["body"]
        used += body["usage"]["total_tokens"]
        for item in body["data"]:
            vector = np.frombuffer(pybase64.b64decode(item["embedding"]), "<f4")
            found[int(str(line["custom_id"])[1:]), item["index"]] = vector
    assert used == tokens
    expected = load(STATIC).embed([text for values in inputs for text in values])
    np.testing.assert_allclose(found.reshape(-1, 256), expected, atol=1e-6)


def test_a_created_batch_survives_at_once(new_engine: Callable[..., EngineProcess]) -> None:
    """Killed right after the answer: file and batch are there, and the batch is run."""
    engine = new_engine().start()
    made = [engine.submit(jsonl([request_line("a", f"text {n}")]), metadata={"n": str(n)}) for n in range(5)]
    engine.kill()
    engine.start()
    batches = [engine.finished(batch_id) for batch_id in made]
    assert [(batch["status"], batch["metadata"]) for batch in batches] == [
        ("completed", {"n": str(n)}) for n in range(5)
    ]


def test_a_regular_stop_in_the_middle(new_engine: Callable[..., EngineProcess]) -> None:
    engine = new_engine("--model", STATIC).start()
    batch_id = engine.submit(jsonl(request_line(f"r{n}", list(texts(8, n * 8))) for n in range(LINES)))
    until(lambda: engine.batch(batch_id)["request_counts"]["completed"], bool)
    assert engine.stop() == 0
    finished, _ = _recorded(engine.data, batch_id)
    assert 0 < finished < LINES
    engine.start()
    assert engine.finished(batch_id)["request_counts"] == {"total": LINES, "completed": LINES, "failed": 0}
    assert _rows(engine.data, "SELECT runs, count(*) FROM lines GROUP BY runs") == [(1, LINES)]
