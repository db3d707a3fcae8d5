"""SIGKILL while requests are at an upstream, and while webhooks are told: no finished line is asked for again, what was
under way is asked again at most, and each end of a batch is told of under one id. A disk that fails has nothing asked
for at all.
"""

import errno
import sqlite3
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.crash_worker import Fault
from tests.engine_crash_world import World, world
from tests.engine_fixtures import ENDED, jsonl, until
from tests.upstream_fixtures import FakeUpstream, request_for

CHAT = "/v1/chat/completions"
HOOK = "/v1/moderations"  # any path that the upstream takes
LINES, AT_ONCE = 40, 4
POINTS = (
    ("before pwrite of output in _write",),  # answered and paid for, and not written
    ("half pwrite of output in _write", "after pwrite of output in _write"),
    ("before commit of Spool.append", "after commit of Spool.append"),
    ("after commit of Batches.end",),  # its event is recorded, and not told
    ("before commit of Notifier._settle", "after commit of Notifier._settle"),  # told, and not noted
)


def _finished(world: World) -> set[str]:
    """The requests that have a result on disk."""
    connection = sqlite3.connect(world.data / "engine.db")
    rows = connection.execute("SELECT line FROM lines").fetchall()
    connection.close()
    return {f"c{row[0]}" for row in rows}


@pytest.mark.parametrize("points", POINTS, ids=lambda points: points[0])
def test_killed_at_an_upstream(tmp_path: Path, upstream: FakeUpstream, points: tuple[str, ...]) -> None:
    upstream.pause_s = 0.004
    route = {"base_url": upstream.url, "concurrency": AT_ONCE}
    hook = {"url": upstream.url + "/moderations", "secret_env": "HOOK_SECRET"}
    at_death: list[tuple[int, set[str]]] = []
    with world(tmp_path, *map(Fault, points), routes={"gpt-*": route}, webhooks=[hook]) as made:
        made.environ = {"HOOK_SECRET": "secret"}
        made.died = lambda: at_death.append((len(upstream.asked), _finished(made)))
        ids = [f"c{n}" for n in range(1, LINES + 1)]
        file_id = made.upload(jsonl(request_for(CHAT, id_, id_) for id_ in ids))
        batch_id = made.submit(file_id, ids, endpoint=CHAT)
        batch = made.until(batch_id, lambda batch: batch["status"] in ENDED)
        assert batch["request_counts"] == {"total": LINES, "completed": LINES, "failed": 0}
        until(lambda: _untold(made), lambda left: not left)
        made.finish()
    assert made.kills == len(points)
    for asked, finished in at_death:
        assert not finished & {one.said for one in upstream.asked[asked:] if one.path == CHAT}, "asked again"
    times = Counter(one.said for one in upstream.asked if one.path == CHAT)
    assert times.keys() == set(ids)
    # Those at the upstream, and those answered within the 20 ms in which answers are gathered to be written together.
    assert sum(times.values()) - LINES <= made.kills * (AT_ONCE + AT_ONCE * 20 / 4)
    told = [one for one in upstream.asked if one.path == HOOK]
    assert {one.headers["webhook-id"] for one in told} == {told[0].headers["webhook-id"]}
    assert {(one.body["type"], one.body["data"]["id"]) for one in told} == {("batch.completed", batch_id)}


@pytest.mark.parametrize("point", ["half pwrite of output in _write", "before commit of Spool.append"])
def test_a_disk_that_fails_at_an_upstream(tmp_path: Path, upstream: FakeUpstream, point: str) -> None:
    upstream.pause_s = 0.01
    route = {"base_url": upstream.url, "concurrency": AT_ONCE}
    with world(tmp_path, Fault(point, 2, -errno.ENOSPC), routes={"gpt-*": route}) as made:
        ids = [f"c{n}" for n in range(1, 5 * LINES + 1)]
        batch_id = made.submit(made.upload(jsonl(request_for(CHAT, id_, id_) for id_ in ids)), ids, endpoint=CHAT)
        ready = made.url.removesuffix("/v1") + "/readyz"
        until(lambda: made.http.get(ready).text, lambda text: "waits until the data directory" in text)
        time.sleep(0.1)  # what is on its way arrives
        asked = len(upstream.asked)
        assert 0 < asked < len(ids)
        time.sleep(1.2)  # it tries again
        assert len(upstream.asked) == asked
        assert made.http.get(f"{made.url}/batches/{batch_id}").json()["status"] == "in_progress"
        made.room.touch()
        batch = made.until(batch_id, lambda batch: batch["status"] in ENDED)
        assert batch["request_counts"] == {"total": len(ids), "completed": len(ids), "failed": 0}
        made.finish()
    assert Counter(one.said for one in upstream.asked) == dict.fromkeys(ids, 1)
    assert not made.ends


def _untold(world: World) -> list[tuple[int]]:
    world.ask("GET", "/models")  # buries an engine that died, and starts the next
    connection = sqlite3.connect(world.data / "engine.db")
    rows = connection.execute("SELECT seq FROM events WHERE done_at IS NULL").fetchall()
    connection.close()
    return rows
