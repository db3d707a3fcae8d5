#!/usr/bin/env python3
"""A result file of 430 MB downloaded over a connection that is cut three times: bytes, memory, seconds.

Beside ours, from the same server and minute, the *peer*: `client.files.content()` of the official SDK, written to a file.
Each download is a process of its own; the server on 127.0.0.1 answers Range, and cuts a download after a quarter, a half
and three quarters of the file. Memory is how far the process' peak lies above what it held before. Run it with the
project's interpreter:

    .venv/bin/python scripts/bench_download.py
    .venv/bin/python scripts/bench_download.py --mb 20 --json
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

MB = 1_000_000
CUTS = (0.25, 0.5, 0.75)
_BLOCK = 1 << 20
_LIMIT_MB = 50.0  # of growth: flat


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# What runs in processes of its own.


def serve(path: Path) -> None:
    """Serves the file as `whole` and, after its size was asked for, as `cut`. Says its port."""
    size = path.stat().st_size
    cuts: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            name = self.path.removeprefix("/v1/files/")
            if name.endswith("/content"):
                self._content()
                return
            cuts[:] = [int(share * size) for share in CUTS] if name == "cut" else []
            body = json.dumps({"id": name, "object": "file", "bytes": size}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _content(self) -> None:
            found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            start = int(found[1]) if found else 0
            self.send_response(206 if found else 200)
            self.send_header("ETag", '"430"')
            self.send_header("Content-Length", str(size - start))
            if found:
                self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
            self.end_headers()
            self._send(start, cuts.pop(0) if cuts else size)

        def _send(self, start: int, stop: int) -> None:
            with path.open("rb") as file:
                file.seek(start)
                while (left := stop - file.tell()) > 0:
                    self.wfile.write(file.read(min(left, _BLOCK)))
            self.close_connection = stop < size

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()


def ours(url: str, name: str, path: Path) -> dict[str, Any]:
    from embedfill.errors import EmbedfillError
    from embedfill.providers.client import BatchClient

    with BatchClient(url) as client:
        return _measured(lambda: client.download(name, path), EmbedfillError)


def sdk(url: str, name: str, path: Path) -> dict[str, Any]:
    import openai

    with openai.OpenAI(base_url=url, api_key="none") as client:
        client.files.retrieve(name)  # as ours does; and the server begins anew
        return _measured(lambda: client.files.content(name).write_to_file(path), openai.OpenAIError)


def _measured(download: Callable[[], object], failing: type[Exception]) -> dict[str, Any]:
    """Seconds of the wall and of the core, megabytes above what was held before, and the error if there was one."""
    before_mb, wall, core = _status_mb("VmRSS"), time.perf_counter(), time.process_time()
    error = ""
    try:
        download()
    except failing as failure:
        error = f"{type(failure).__name__}: {failure}"
    return {
        "error": error,
        "wall_s": round(time.perf_counter() - wall, 3),
        "cpu_s": round(time.process_time() - core, 3),
        "growth_mb": round(_status_mb("VmHWM") - before_mb, 1),
    }


def _status_mb(name: str) -> float:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 / MB if found else 0.0


# What measures.


def write_file(path: Path, size: int) -> None:
    with path.open("wb") as file:
        for start in range(0, size, _BLOCK):
            file.write(os.urandom(min(_BLOCK, size - start)))


def measure(who: str, url: str, name: str, path: Path, expected: str) -> dict[str, Any]:
    command = [sys.executable, __file__, f"--{who}", url, name, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    found["exact"] = path.exists() and digest(path) == expected
    path.unlink(missing_ok=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--mb", type=int, default=430, help="size of the file")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    for who in ("ours", "sdk"):
        parser.add_argument(f"--{who}", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
    elif options.ours or options.sdk:
        url, name, path = options.ours or options.sdk
        print(json.dumps((ours if options.ours else sdk)(url, name, Path(path))))
    else:
        report(options.mb, options.json)


def report(megabytes: int, as_json: bool) -> None:
    folder = Path(tempfile.mkdtemp(prefix="embedfill-bench-"))
    try:
        source = folder / "source"
        write_file(source, megabytes * MB)
        expected = digest(source)
        server = subprocess.Popen([sys.executable, __file__, "--serve", source], stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        url = f"http://127.0.0.1:{server.stdout.readline().strip()}/v1"
        try:
            found = {
                f"{who}_{name}": measure(who, url, name, folder / "copy", expected)
                for name in ("whole", "cut")
                for who in ("ours", "sdk")
            }
        finally:
            server.kill()
            server.communicate()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    ratios = {
        "wall_to_sdk": round(found["ours_whole"]["wall_s"] / found["sdk_whole"]["wall_s"], 2),
        "cpu_to_sdk": round(found["ours_whole"]["cpu_s"] / found["sdk_whole"]["cpu_s"], 2),
        "memory_to_sdk": round(found["ours_cut"]["growth_mb"] / found["sdk_whole"]["growth_mb"], 3),
        "memory_to_limit": round(found["ours_cut"]["growth_mb"] / _LIMIT_MB, 2),
    }
    if as_json:
        print(json.dumps({"mb": megabytes, **found, "ratios": ratios}))
        return
    for name, one in found.items():
        what = one["error"] or ("exact" if one["exact"] else "not the same bytes")
        print(
            f"{name.replace('_', ', '):12} {one['wall_s']:6.2f} s, core {one['cpu_s']:5.2f} s, "
            f"{one['growth_mb']:6.1f} MB more than before: {what}"
        )
    print("ratios: " + ", ".join(f"{name} {ratio}" for name, ratio in ratios.items()))


if __name__ == "__main__":
    main()
