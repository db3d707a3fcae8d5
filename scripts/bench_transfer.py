#!/usr/bin/env python3
"""200 MB into the engine and 430 MB out of it beside the bare framework: megabytes a second, core, and memory.

The *peer* is Starlette on uvicorn with no engine: it reads an upload and throws it away, and answers a download out of
memory. Both are processes on 127.0.0.1, asked in turn by the same client over a plain socket, so that the client costs
little. Of the rounds the best counts: what else runs on a machine makes one slower, never faster. Memory is how far the
server's peak lies above what it held before.

    .venv/bin/python scripts/bench_transfer.py
    .venv/bin/python scripts/bench_transfer.py --upload-mb 5 --download-mb 5 --rounds 1 --json
"""

import argparse
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

MB = 1_000_000
LIMIT_MB = 64.0  # of growth
_BLOCK = 1 << 20
_LINES = (
    b'{"custom_id": "r", "method": "POST", "url": "/v1/embeddings", "body": {"input": "a text of a batch"}}\n' * 8_000
)
_BOUNDARY = "4f1d3c0b8a7e69524f1d3c0b8a7e6952"  # as long as the official client's
_HEAD = (
    f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n%s\r\n'
    f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="large.jsonl"\r\n\r\n'
)
_TAIL = f"\r\n--{_BOUNDARY}--\r\n".encode()


# The peer, a process of its own.


def serve_peer() -> None:
    """Serves POST /v1/files and GET /v1/files/BYTES/content. Says its port."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response, StreamingResponse
    from starlette.routing import Route

    async def discard(request: Request) -> Response:
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
        return JSONResponse({"id": str(size)})

    async def content(request: Request) -> Response:
        size = int(request.path_params["size"])
        block = bytes(_BLOCK)

        async def blocks() -> Any:  # noqa: ANN401 - an asynchronous generator
            for start in range(0, size, _BLOCK):
                yield block[: size - start]

        return StreamingResponse(blocks(), headers={"content-length": str(size)})

    app = Starlette(
        routes=[Route("/v1/files", discard, methods=["POST"]), Route("/v1/files/{size:int}/content", content)]
    )
    sock = socket.create_server(("127.0.0.1", 0))
    print(f"listening on http://127.0.0.1:{sock.getsockname()[1]}/v1", flush=True)
    uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="warning", access_log=False)).run(sockets=[sock])


# The client.


class Server:
    """A server process, and what is asked of it."""

    def __init__(self, *command: str) -> None:
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        url = urlsplit(self.process.stdout.readline().removeprefix("listening on ").strip())
        self._address = (url.hostname or "", url.port or 0)
        self.held_mb = 0.0

    def settle(self) -> None:
        """From here on, memory counts."""
        self.upload(MB, "user_data")
        self.held_mb = self._status_mb("VmRSS")

    @property
    def growth_mb(self) -> float:
        return round(self._status_mb("VmHWM") - self.held_mb, 1)

    @property
    def core_s(self) -> float:
        """What all of its threads have used."""
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()

    def upload(self, size: int, purpose: str) -> str:
        """The id of a file of `size` bytes."""
        head = (_HEAD % purpose).encode()
        length = len(head) + size + len(_TAIL)
        with self._ask(
            "POST", "/files", f"Content-Type: multipart/form-data; boundary={_BOUNDARY}\r\nContent-Length: {length}\r\n"
        ) as sock:
            sock.sendall(head)
            for block in _blocks(size):
                sock.sendall(block)
            sock.sendall(_TAIL)
            body = b"".join(iter(lambda: sock.recv(_BLOCK), b"")).partition(b"\r\n\r\n")[2]
        return str(json.loads(body)["id"])

    def download(self, file_id: str) -> int:
        """Bytes that came."""
        view, size = memoryview(bytearray(_BLOCK)), 0
        with self._ask("GET", f"/files/{file_id}/content", "") as sock:
            head = b""
            while b"\r\n\r\n" not in head:
                head += sock.recv(_BLOCK)
            size = len(head.partition(b"\r\n\r\n")[2])
            while got := sock.recv_into(view):
                size += got
        return size

    def _ask(self, method: str, path: str, headers: str) -> socket.socket:
        sock = socket.create_connection(self._address)
        sock.sendall(f"{method} /v1{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n".encode())
        return sock

    def _status_mb(self, name: str) -> float:
        found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{self.process.pid}/status").read_text())
        return int(found[1]) * 1024 / MB if found else 0.0


def _blocks(size: int) -> Iterator[bytes]:
    for start in range(0, size, len(_LINES)):
        yield _LINES[: size - start]


# What measures.


def timed(server: Server, size: int, act: Callable[[], object]) -> tuple[float, float]:
    """Megabytes a second, and seconds of the server's core."""
    began, core = time.perf_counter(), server.core_s
    act()
    return size / MB / (time.perf_counter() - began), server.core_s - core


def measure(engine: Server, peer: Server, folder: Path, upload: int, download: int, rounds: int) -> dict[str, Any]:
    took: dict[tuple[str, str], list[tuple[float, float]]] = {}
    large = engine.upload(download, "user_data")
    sizes, alone = set(), []
    for server in (engine, peer):
        server.settle()
    for _ in range(rounds):
        alone.append(write_alone(folder, upload))
        for name, server, file_id in (("engine", engine, large), ("peer", peer, str(download))):
            one = timed(server, upload, lambda: server.upload(upload, "batch"))  # noqa: B023 - called at once
            took.setdefault(("upload", name), []).append(one)
            one = timed(server, download, lambda: sizes.add(server.download(file_id)))  # noqa: B023
            took.setdefault(("download", name), []).append(one)
    found = {what: compared(took[what, "engine"], took[what, "peer"]) for what in ("upload", "download")}
    found["upload"]["disk_mb_per_s"] = round(max(alone), 1)
    return {**found, "whole": sizes == {download}, "growth_mb": engine.growth_mb, "peer_growth_mb": peer.growth_mb}


def write_alone(folder: Path, size: int) -> float:
    """Megabytes a second of the same bytes into a file, synced: no upload that is kept can be faster."""
    path, began = folder / "alone", time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for block in _blocks(size):
            file.write(block)
        os.fsync(file.fileno())
    took_s = time.perf_counter() - began
    path.unlink()
    return size / MB / took_s


def compared(engine: list[tuple[float, float]], peer: list[tuple[float, float]]) -> dict[str, float]:
    """The best of each, and how many times more the engine takes."""
    (engine_rate, engine_core), (peer_rate, peer_core) = _best(engine), _best(peer)
    return {
        "engine_mb_per_s": round(engine_rate, 1),
        "peer_mb_per_s": round(peer_rate, 1),
        "times_slower": round(peer_rate / engine_rate, 2),
        "engine_core_s": round(engine_core, 3),
        "peer_core_s": round(peer_core, 3),
        "times_core": round(engine_core / peer_core, 2),
    }


def _best(took: list[tuple[float, float]]) -> tuple[float, float]:
    return max(rate for rate, _core in took), min(core for _rate, core in took)


def report(options: argparse.Namespace) -> None:
    folder = Path(tempfile.mkdtemp(prefix="embedfill-bench-", dir=options.dir))
    servers = []
    try:
        servers.append(Server(sys.executable, "-m", "embedfill.engine", "--data", str(folder / "engine")))
        servers.append(Server(sys.executable, __file__, "--serve"))
        found = measure(*servers, folder, options.upload_mb * MB, options.download_mb * MB, options.rounds)
    finally:
        for server in servers:
            server.close()
        shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        print(json.dumps(found))
        return
    for what in ("upload", "download"):
        one = found[what]
        print(
            f"{what:8} engine {one['engine_mb_per_s']:7.1f} MB/s, framework alone {one['peer_mb_per_s']:7.1f} MB/s: "
            f"{one['times_slower']} times slower; core {one['engine_core_s']:.3f} and {one['peer_core_s']:.3f} s: "
            f"{one['times_core']} times more"
        )
    print(f"disk     {found['upload']['disk_mb_per_s']} MB/s for the same bytes, written and synced by no server")
    print(
        f"memory   {found['growth_mb']} MB more than before, of {LIMIT_MB} (framework alone {found['peer_growth_mb']})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--upload-mb", type=int, default=200)
    parser.add_argument("--download-mb", type=int, default=430)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", type=Path, help="where the engine keeps its data; a temporary folder else")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve_peer()
    else:
        report(options)


if __name__ == "__main__":
    main()
