"""Clients of the soak: threads that upload, submit, poll, cancel, delete and download, and ask again of an engine that
has died over a request. What they are told goes into the ledger; what is wrong at once, too."""

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import httpx

from tests.engine_fixtures import ENDED, STATIC, jsonl, request_line
from tests.invariants_fixtures import Ledger
from tests.soak_upstream import MODEL, SLOW

KEYS = ("sk-red", "sk-green", "sk-blue")
_PATIENCE_S = 90.0
_WORDS = ["vector", "index", "batch", "shard", "chunk", "token", "recall", "engine", "store", "query"]
_CHAT = {
    "/v1/chat/completions": lambda text: {"messages": [{"role": "user", "content": text}], "max_tokens": 16},
    "/v1/completions": lambda text: {"prompt": text, "max_tokens": 16},
    "/v1/responses": lambda text: {"input": text, "max_output_tokens": 16},
    "/v1/moderations": lambda text: {"input": text},
}


@dataclass
class Shared:
    """What all clients share. `tickets`: the times at which a batch is to be made, latest first."""

    url: str
    ledger: Ledger
    tickets: list[float]
    routed: bool
    most_lines: int = 10_000
    stop: threading.Event = field(default_factory=threading.Event)
    counts: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, name: str, much: int = 1) -> None:
        with self.lock:
            self.counts[name] += much

    def wrong(self, what: str) -> None:
        with self.ledger.lock:
            self.ledger.broken.append(what)

    def ticket(self) -> bool:
        with self.lock:
            if self.tickets and self.tickets[-1] <= time.monotonic():
                self.tickets.pop()
                return True
            return False


@dataclass
class Mine:
    """A batch of a client. `patience`: how many looks it takes before it is cancelled; None, it is not."""

    id: str
    file_id: str
    patience: int | None
    rude: bool  # deletes its input while the batch runs


class Client:
    def __init__(self, shared: Shared, seed: int) -> None:
        self.name = f"client-{seed}"
        self.thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._shared = shared
        self._chance = Random(seed)
        self._key = KEYS[seed % len(KEYS)]
        self._other = KEYS[(seed + 1) % len(KEYS)]
        self._open: list[Mine] = []
        self._made = 0
        self._http = httpx.Client(timeout=_PATIENCE_S, trust_env=False, transport=httpx.HTTPTransport(verify=False))

    def _run(self) -> None:
        try:
            while not self._shared.stop.is_set() and (self._shared.tickets or self._open):
                self._turn()
                time.sleep(self._chance.uniform(0.02, 0.4))
        except (AssertionError, httpx.HTTPError, KeyError, TypeError) as error:
            self._shared.wrong(f"{self.name}: {error!r}")
        finally:
            self._http.close()

    def _turn(self) -> None:
        if self._shared.ticket():
            self._submit()
        for mine in list(self._open):
            self._look(mine)
        if self._chance.random() < 0.1:
            self._chance.choice((self._embed, self._list, self._peek))()

    def ask(self, method: str, path: str, key: str = "", **options: Any) -> httpx.Response:
        """The answer to a request, asked again while no engine answers."""
        headers = {"Authorization": f"Bearer {key or self._key}", **options.pop("headers", {})}
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                self._shared.count("requests")
                response = self._http.request(method, self._shared.url + path, headers=headers, **options)
            except httpx.TransportError:
                self._shared.count("requests without an answer")
                assert time.monotonic() < deadline, f"no engine for {method} {path}"
                time.sleep(0.2)
                continue
            if response.status_code < 500:
                return response
            self._shared.wrong(f"{method} {path}: {response.status_code} {response.text[:200]}")
            time.sleep(0.5)

    def _submit(self) -> None:
        self._made += 1
        name = f"{self.name}-{self._made}"
        ids, endpoint, lines = self._lines(name)
        if broken := self._chance.random() < 0.05:
            lines.append({"custom_id": ids[0]})
        data = jsonl(lines)
        file_id = self._in_parts(data) if self._chance.random() < 0.3 else self._upload(data)
        window = "1m" if self._chance.random() < (0.8 if SLOW in data[:500].decode() else 0.1) else "24h"
        body = {"input_file_id": file_id, "endpoint": endpoint, "completion_window": window, "metadata": {"name": name}}
        response = self.ask("POST", "/batches", json=body, headers={"Idempotency-Key": name})
        assert response.status_code == 200, response.text
        self._shared.ledger.submitted(response.json(), [] if broken else ids)
        self._shared.count("batches")
        self._shared.count("request lines", len(ids))
        patience = self._chance.randrange(4) if self._chance.random() < 0.25 else None
        self._open.append(Mine(response.json()["id"], file_id, patience, self._chance.random() < 0.2))

    def _lines(self, name: str) -> tuple[list[str], str, list[object]]:
        """Ids, endpoint and lines of a batch: sizes from one line to thousands, and some requests that fail."""
        chance = self._chance
        if self._shared.routed and chance.random() < 0.45:
            endpoint = chance.choice(list(_CHAT))
            model, most = (SLOW, 1.8) if chance.random() < 0.15 else (MODEL, 3.2)
            ids = [f"{name}-r{n}" for n in range(int(10 ** chance.uniform(0, most)))]
            return ids, endpoint, [
                {"custom_id": id_, "method": "POST", "url": endpoint, "body": {"model": model, **_CHAT[endpoint](f"say #{id_} ")}}
                for id_ in ids
            ]  # fmt: skip
        ids = [f"{name}-r{n}" for n in range(int(self._shared.most_lines ** chance.random()))]
        encoding = chance.choice(("float", "base64"))
        return ids, "/v1/embeddings", [request_line(id_, self._input(), encoding_format=encoding) for id_ in ids]

    def _input(self) -> object:
        if self._chance.random() < 0.01:
            return [2_000_000_000]  # no model has this token
        texts = [" ".join(self._chance.choices(_WORDS, k=self._chance.randrange(1, 40))) for _ in range(3)]
        return self._chance.choice((texts[0], texts))

    def _upload(self, data: bytes) -> str:
        files = {"file": ("input.jsonl", data, "application/jsonl")}
        file = self.ask("POST", "/files", data={"purpose": "batch"}, files=files).raise_for_status().json()
        self._shared.ledger.uploaded(file, data)
        self._shared.count("uploads")
        self._shared.count("bytes sent", len(data))
        return str(file["id"])

    def _in_parts(self, data: bytes) -> str:
        """Some part twice, since its answer may be lost; some uploads given up before."""
        size = max(1, len(data) // self._chance.randrange(1, 5))
        body = {"bytes": len(data), "filename": "p.jsonl", "mime_type": "application/jsonl", "purpose": "batch"}
        upload_id = self.ask("POST", "/uploads", json=body).raise_for_status().json()["id"]
        if self._chance.random() < 0.2:
            self._part(upload_id, data[:size])
            self.ask("POST", f"/uploads/{upload_id}/cancel").raise_for_status()
            self._shared.count("uploads given up")
            return self._in_parts(data)
        parts = [self._part(upload_id, data[at : at + size]) for at in range(0, len(data), size)]
        body = {"part_ids": parts, "md5": hashlib.md5(data, usedforsecurity=False).hexdigest()}
        done = self.ask("POST", f"/uploads/{upload_id}/complete", json=body).raise_for_status().json()
        self._shared.ledger.uploaded(done["file"], data)
        self._shared.count("uploads in parts")
        self._shared.count("bytes sent", len(data))
        return str(done["file"]["id"])

    def _part(self, upload_id: str, data: bytes) -> str:
        files = {"data": ("part", data, "application/octet-stream")}
        return str(self.ask("POST", f"/uploads/{upload_id}/parts", files=files).raise_for_status().json()["id"])

    def _look(self, mine: Mine) -> None:
        batch = self.ask("GET", f"/batches/{mine.id}").raise_for_status().json()
        self._shared.ledger.saw(batch)
        if batch["status"] in ENDED:
            self._open.remove(mine)
            self._ended(batch)
            return
        if mine.rude and batch["status"] != "validating":
            self._delete(mine.file_id)
            mine.rude = False
        if mine.patience is not None:
            mine.patience -= 1
            if mine.patience < 0:
                mine.patience = None
                self._cancel(mine)

    def _cancel(self, mine: Mine) -> None:
        response = self.ask("POST", f"/batches/{mine.id}/cancel")
        assert response.status_code in (200, 409), response.text
        if response.status_code == httpx.codes.OK:
            self._shared.ledger.cancelled(response.json())
            self._shared.count("cancels accepted")

    def _ended(self, batch: dict[str, Any]) -> None:
        self._shared.count(batch["status"])
        for name in ("output_file_id", "error_file_id"):
            if batch[name]:
                self._download(batch[name])
        if batch["output_file_id"] and self._chance.random() < 0.1:
            self._delete(batch["output_file_id"])

    def _delete(self, file_id: str) -> None:
        self._shared.ledger.deleting(file_id)
        assert self.ask("DELETE", f"/files/{file_id}").status_code in (200, 404)
        assert self.ask("GET", f"/files/{file_id}").status_code == httpx.codes.NOT_FOUND
        self._shared.count("deletes")

    def _download(self, file_id: str) -> None:
        size = self.ask("GET", f"/files/{file_id}").raise_for_status().json()["bytes"]
        whole = self.ask("GET", f"/files/{file_id}/content")
        self._shared.count("bytes fetched", len(whole.content))
        if len(whole.content) != size:
            self._shared.wrong(f"{file_id}: {len(whole.content)} bytes came of {size}")
        first = self._chance.randrange(size)
        headers = {"Range": f"bytes={first}-", "If-Range": whole.headers["etag"]}
        part = self.ask("GET", f"/files/{file_id}/content", headers=headers)
        self._shared.count("ranges")
        if (part.status_code, part.content) != (206, whole.content[first:]):
            self._shared.wrong(f"{file_id}: bytes {first}- answered with {part.status_code}, {len(part.content)} bytes")
        if self.ask("GET", f"/files/{file_id}", self._other).status_code != httpx.codes.NOT_FOUND:
            self._shared.wrong(f"{file_id} is shown to another key")

    def _embed(self) -> None:
        inputs = ["one text", "and another one"]
        response = self.ask("POST", "/embeddings", json={"model": STATIC, "input": inputs}).raise_for_status().json()
        self._shared.count("synchronous requests")
        if [item["index"] for item in response["data"]] != [0, 1]:
            self._shared.wrong("a synchronous request got other vectors than asked for")

    def _list(self) -> None:
        """All pages of this key's batches: each once, newest first, and this client's among them."""
        found: list[str] = []
        after: dict[str, str] = {}
        while True:
            page = self.ask("GET", "/batches", params={"limit": 50, **after}).raise_for_status().json()
            found += [batch["id"] for batch in page["data"]]
            if not page["has_more"]:
                break
            after = {"after": page["last_id"]}
        self._shared.count("listings")
        lost = [mine.id for mine in self._open if mine.id not in found]
        if lost or len(set(found)) != len(found):
            self._shared.wrong(f"a listing of {len(found)} lacks {lost}, or has some twice")

    def _peek(self) -> None:
        if self._open and self.ask("GET", f"/batches/{self._open[0].id}", self._other).status_code != 404:
            self._shared.wrong(f"{self._open[0].id} is shown to another key")
        self._shared.count("looks at others' batches")


def start(shared: Shared, clients: int, seed: int) -> Sequence[Client]:
    made = [Client(shared, seed * 1_000 + n) for n in range(clients)]
    for client in made:
        client.thread.start()
    return made
