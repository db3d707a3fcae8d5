"""An engine that is killed, and the clients that go on with it: they ask again what got no answer, as clients do.

Whatever happened, `finish` has every batch ended and every invariant checked.
"""

import hashlib
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import httpx

from tests.crash_worker import Fault
from tests.engine_crash_worker import Order, start
from tests.engine_fixtures import ENDED, batch_body, jsonl, request_line
from tests.invariants_fixtures import Ledger, violations

DAY_S = 86_400
INSUFFICIENT_STORAGE = 507
PAUSE_S = 0.006
_PATIENCE_S = 60.0
_MOST_STARTS = 20
_ENDURED = 100  # rests


@dataclass
class World:
    """`faults`: one for each start of the engine, in turn; when they are used up it lives."""

    data: Path
    faults: list[Fault] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    log: Path | None = None
    environ: dict[str, str] = field(default_factory=dict)
    died: Callable[[], None] = lambda: None  # called after each kill, before the next engine
    ledger: Ledger = field(default_factory=Ledger)
    kills: int = 0
    ends: int = 0  # of engines whose disk failed while they started, or stopped
    told: int = 0  # answers that said that the disk failed
    faulty: bool = False
    rests: int = 0
    url: str = ""
    process: BaseProcess | None = None

    def __post_init__(self) -> None:
        self.clock = self.data.with_suffix(".clock")
        self.clock.write_text("0")
        self.room = self.data.with_suffix(".room")
        self.http = httpx.Client(timeout=_PATIENCE_S, trust_env=False, transport=httpx.HTTPTransport(verify=False))

    def start(self) -> None:
        """An engine that answers; those that die before are counted."""
        for _ in range(_MOST_STARTS):
            settings = {"data": self.data, "threads": 1, "log_level": "error", **self.settings}
            fault = self.faults.pop(0) if self.faults else None
            self.faulty |= fault is not None and fault.signal < 0
            self.process, announced = start(
                Order(settings, fault, self.log, self.clock, PAUSE_S, self.room, self.environ)
            )
            try:
                assert announced.poll(_PATIENCE_S), "no engine announced itself"
                self.url = announced.recv()
                return
            except EOFError:
                self._buried(at_work=False)
            finally:
                announced.close()
        raise AssertionError("the engine does not live")

    def _buried(self, at_work: bool = True) -> None:
        assert self.process is not None
        self.process.join(_PATIENCE_S)
        code = self.process.exitcode
        self.process = None
        if code == 1 and not at_work and self.faulty and not self.ends:
            self.room.touch()
            self.ends += 1
            return
        assert code == -signal.SIGKILL, f"the engine ended with {code}"
        self.kills += 1
        self.died()

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """The answer to a request, asked again of a new engine where one died over it."""
        for _ in range(_MOST_STARTS):
            if self.process is None:
                self.start()
            try:
                response = self.http.request(method, self.url + path, **options)
            except httpx.TransportError:
                self._buried()
                continue
            if response.status_code != INSUFFICIENT_STORAGE or self.room.exists():
                assert response.status_code < 500, response.text
                return response
            assert response.json()["error"]["code"] == "insufficient_storage"
            self.told += 1
            self.room.touch()
        raise AssertionError(f"no answer to {method} {path}")

    def upload(self, data: bytes, **fields: str) -> str:
        files = {"file": ("input.jsonl", data, "application/jsonl")}
        file = self.ask("POST", "/files", data={"purpose": "batch", **fields}, files=files).raise_for_status().json()
        self.ledger.uploaded(file, data)
        return str(file["id"])

    def submit(self, file_id: str, custom_ids: Sequence[str], **body: Any) -> str:
        body = batch_body(file_id, **body)
        headers = {"Idempotency-Key": f"{file_id} {len(self.ledger.batches)}"}
        batch = self.ask("POST", "/batches", json=body, headers=headers).raise_for_status().json()
        self.ledger.submitted(batch, custom_ids)
        return str(batch["id"])

    def look(self, batch_id: str) -> dict[str, Any]:
        batch: dict[str, Any] = self.ask("GET", f"/batches/{batch_id}").raise_for_status().json()
        self.ledger.saw(batch)
        return batch

    def until(self, batch_id: str, good: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline = time.monotonic() + _PATIENCE_S
        while not good(batch := self.look(batch_id)) and batch["status"] not in ENDED:
            self.rest(deadline, batch)
        return batch

    @property
    def left(self) -> bool:
        """Whether what could not be removed while the disk failed may still be there: until the next start."""
        return self.faulty and self.rests > 3 * _ENDURED

    def rest(self, deadline: float, what: object) -> None:
        """Between two looks. Where nobody notices that the disk fails, it is mended after some."""
        assert time.monotonic() < deadline, what
        time.sleep(0.005)
        self.rests += 1
        if self.faulty and self.rests > _ENDURED and not self.room.exists():
            self.room.touch()

    def cancel(self, batch_id: str) -> None:
        response = self.ask("POST", f"/batches/{batch_id}/cancel")
        if response.status_code == httpx.codes.OK:
            self.ledger.cancelled(response.json())
        else:
            assert response.status_code == httpx.codes.CONFLICT

    def announce(self, size: int) -> str:
        body = {"bytes": size, "filename": "parts.jsonl", "mime_type": "application/jsonl", "purpose": "batch"}
        return str(self.ask("POST", "/uploads", json=body).raise_for_status().json()["id"])

    def part(self, upload_id: str, data: bytes) -> str:
        files = {"data": ("part", data, "application/octet-stream")}
        return str(self.ask("POST", f"/uploads/{upload_id}/parts", files=files).raise_for_status().json()["id"])

    def delete(self, file_id: str) -> None:
        self.ledger.deleting(file_id)
        assert self.ask("DELETE", f"/files/{file_id}").status_code in (200, 404)

    def advance(self, seconds: float) -> None:
        """The engine's clock goes on by so much at once."""
        temp = self.clock.with_suffix(".new")
        temp.write_text(str(float(self.clock.read_text()) + seconds))
        temp.replace(self.clock)

    def finish(self, again: bool = False) -> None:
        """Every batch ends, one that nobody was told of too; then the engine stops (`again`: and is started and stopped
        once more), and everything is checked."""
        for batch in self.ask("GET", "/batches?limit=100").json()["data"]:
            self.until(batch["id"], lambda batch: batch["status"] in ENDED)
        self.stop()
        if again:
            self.start()
            self.stop()
        wrong = violations(self.data, self.ledger)
        assert not wrong, wrong

    def stop(self) -> None:
        assert self.process is not None
        deadline = time.monotonic() + _PATIENCE_S
        while any((self.data / "spool").iterdir()) and not self.left:  # removed after the batch's end
            self.rest(deadline, "spools are left")
        self.process.terminate()
        self.process.join(_PATIENCE_S)
        if self.process.exitcode != 0:  # on its way out
            self._buried(at_work=False)
            self.start()
            self.stop()

    def close(self) -> None:
        self.http.close()
        if self.process is not None and self.process.is_alive():
            self.process.kill()
            self.process.join()


@contextmanager
def world(folder: Path, *faults: Fault, **settings: Any) -> Iterator[World]:
    made = World(folder / "engine", list(faults), settings)
    try:
        yield made
    finally:
        made.close()


def small(world: World) -> None:
    """A batch that completes; its input is deleted while it is used, and its output afterwards."""
    ids = [f"s{n}" for n in range(6)]
    lines = [request_line(name, f"text {name}" if n else [], encoding_format="base64") for n, name in enumerate(ids)]
    file_id = world.upload(jsonl(lines))
    batch_id = world.submit(file_id, ids, metadata={"step": "small"})
    world.advance(-7_200)  # the clock is set right: times of a batch do not run back
    world.until(batch_id, lambda batch: batch["status"] != "validating")
    world.delete(file_id)
    batch = world.until(batch_id, lambda batch: batch["status"] in ENDED)
    assert batch["status"] == "completed", batch
    assert batch["request_counts"] == {"total": 6, "completed": 5, "failed": 1}


def refused(world: World) -> None:
    """A batch whose last line is wrong."""
    lines: list[object] = [request_line("a", "text"), request_line("a", "again")]
    batch_id = world.submit(world.upload(jsonl(lines)), ["a"])
    assert world.until(batch_id, lambda batch: batch["status"] in ENDED)["status"] == "failed"


def slow_lines(count: int) -> tuple[list[str], bytes]:
    """Two of them fill a worker's first window."""
    ids = [f"l{n}" for n in range(count)]
    return ids, jsonl(request_line(name, [f"{name} {'word ' * 1_600}"], encoding_format="base64") for name in ids)


def cancelled(world: World) -> None:
    """A batch that is cancelled in the middle, if it can be."""
    ids, data = slow_lines(48)
    batch_id = world.submit(world.upload(data), ids)
    world.until(batch_id, lambda batch: batch["request_counts"]["completed"] > 0)
    world.cancel(batch_id)
    batch = world.until(batch_id, lambda batch: batch["status"] in ENDED)
    assert world.kills or (batch["status"] == "cancelled" and batch["request_counts"]["failed"]), batch


def expired(world: World) -> None:
    """A batch whose window passes in the middle, if it can."""
    ids, data = slow_lines(48)
    batch_id = world.submit(world.upload(data), ids)
    world.until(batch_id, lambda batch: batch["request_counts"]["completed"] > 0)
    world.advance(DAY_S)
    batch = world.until(batch_id, lambda batch: batch["status"] in ENDED)
    assert world.kills or (batch["status"] == "expired" and batch["request_counts"]["failed"]), batch


def collected(world: World) -> None:
    """Files whose time has come."""
    file_id = world.upload(b"{}\n", **{"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"})
    world.upload(b'{"kept": true}\n', **{"expires_after[anchor]": "created_at", "expires_after[seconds]": "2592000"})
    world.ledger.deleting(file_id)
    world.advance(3_601)
    deadline = time.monotonic() + _PATIENCE_S
    while (world.data / "files" / file_id).exists() and not world.left:
        assert world.ask("GET", f"/files/{file_id}").status_code == httpx.codes.NOT_FOUND
        world.rest(deadline, file_id)


def in_parts(world: World) -> None:
    """A file that comes in parts, one of them too many; and an upload that is given up."""
    data = b'{"first": true}\n' * 8
    upload_id = world.announce(len(data))
    parts = [world.part(upload_id, half) for half in (data[:64], b"not wanted", data[64:])]
    body = {"part_ids": [parts[0], parts[2]], "md5": hashlib.md5(data).hexdigest()}
    done = world.ask("POST", f"/uploads/{upload_id}/complete", json=body).raise_for_status().json()
    world.ledger.uploaded(done["file"], data)
    other = world.announce(1_000)
    world.part(other, data)
    assert world.ask("POST", f"/uploads/{other}/cancel").raise_for_status().json()["status"] == "cancelled"
    third = world.announce(1_000)
    world.part(third, data)
    world.advance(3_601)


SCENES = (in_parts, small, refused, cancelled, expired, collected)


def points(folder: Path, scene: Callable[[World], None], **settings: Any) -> list[str]:
    """The points that an engine passes in a scene, in the order in which it first does."""
    log = folder / "points.log"
    with world(folder, **settings) as made:
        made.log = log
        scene(made)
        made.finish()
    with suppress(FileNotFoundError):
        return log.read_text().splitlines()
    return []
