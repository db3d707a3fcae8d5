#!/usr/bin/env python3
"""How fast the state of a store is derived, and what a tracker costs while it waits for a day's batches.

1. The state of 10,000 shards (9,000 settled, 1,000 submitted) in a directory, by a process that has just started: warm
   (this machine has seen the store before) and cold (the cache is empty; the store's files are in the page cache).
   Beside it the *floor*: the same listings alone. Best of 5 processes, and of these the seconds of the core: on a busy
   machine the clock on the wall tells of the others.
2. A tracker over that store, waiting for its 1,000 batches at a server on 127.0.0.1 with the patience of the profile
   `openai` (it polls after 30 s, then ever later, up to 300 s): peak memory, and its share of a core over a minute that
   begins with the first poll, thus with more polls than any later minute.

Figures are given as ratios to the limits: 0.2 s, 300 MB, 5 % of a core. Run it with the project's interpreter:

    .venv/bin/python scripts/bench_tracker.py            # 90 seconds
    .venv/bin/python scripts/bench_tracker.py --seconds 10 --json
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import parse_qs, urlsplit

SPACE = "space"
PLANNED_AT_ONCE = 1_000
TEXTS, TOKENS = 50_000, 10_000_000
LIMITS = {"state_s": 0.2, "peak_mb": 300.0, "core": 0.05}
_TRIES = 5


def write_store(root: Path, shards: int, out: int) -> None:
    """A space as a run would leave it, written without a sync of each file. Batches are `batch_<shard id>`."""
    from embedfill import ids
    from embedfill.records import Claim, Outcome, Shard
    from embedfill.store import layout
    from embedfill.tracker.maker import this_maker
    from embedfill.tracker.state import reference

    def put(key: str, value: bytes) -> None:
        path = root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(value)

    names = [ids.digest_hex("shard", str(number).encode()) for number in range(shards)]
    made = [Shard(name, layout.shard(SPACE, name), 500, TEXTS, TOKENS, 60_000_000) for name in names]
    for start in range(0, shards, PLANNED_AT_ONCE):
        number = start // PLANNED_AT_ONCE + 1
        rows = [asdict(shard) for shard in made[start : start + PLANNED_AT_ONCE]]
        plan = {"number": number, "space": SPACE, "shards": rows, "retired": []}
        put(layout.plan(SPACE, number), ids.canonical(plan))
    for number, shard in enumerate(made):
        claim = Claim(shard.id, 1, f"file_{shard.id}", int(time.time()), TOKENS, 0.1, this_maker(), "0" * 16)
        put(layout.claim(SPACE, shard.id, 1), ids.canonical(asdict(claim)))
        put(layout.batch(SPACE, shard.id, 1), reference(f"batch_{shard.id}"))
        if number >= out:
            packs = tuple(layout.pack(SPACE, ids.digest_hex("pack", shard.id.encode(), bytes([n]))) for n in range(2))
            outcome = Outcome(
                shard.id, 1, f"batch_{shard.id}", "completed", TEXTS, TEXTS, 0, TOKENS, 0.1, packs, seconds=3600.0
            )
            put(layout.outcome(SPACE, shard.id, 1), ids.canonical(asdict(outcome)))


# What runs in processes of its own.


def derive(root: Path, cache: Path) -> dict[str, float]:
    """Seconds (of the wall, of the core) of the state, and of its listings alone, in this process."""
    from embedfill.store import layout
    from embedfill.store.cache import Cache
    from embedfill.store.local import LocalStore
    from embedfill.tracker.state import State

    store = LocalStore(root)
    state_s, state_cpu_s = _seconds(lambda: State(store, Cache(cache, store), SPACE).refresh())
    prefixes = [layout.plan(SPACE), layout.outcome(SPACE), layout.claim(SPACE), layout.batch(SPACE)]
    floor_s, floor_cpu_s = _seconds(lambda: [list(store.list(prefix)) for prefix in prefixes])
    return {"state_s": state_s, "state_cpu_s": state_cpu_s, "floor_s": floor_s, "floor_cpu_s": floor_cpu_s}


def _seconds(work: Callable[[], object]) -> tuple[float, float]:
    wall, core = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - core


def serve(count: int) -> None:
    """A provider with that many batches that never end: the newest of the store. Says its port."""
    from embedfill import ids

    names = [ids.digest_hex("shard", str(number).encode()) for number in range(count)]
    now = int(time.time())
    batches = [
        {
            "id": f"batch_{name}", "object": "batch", "endpoint": "/v1/embeddings", "status": "in_progress",
            "input_file_id": f"file_{name}", "completion_window": "24h", "created_at": now, "expires_at": now + 86_400,
            "metadata": {"embedfill_store": "bench", "embedfill_shard": name, "embedfill_try": "1"}, "errors": None,
            "output_file_id": None, "error_file_id": None,
            "request_counts": {"total": 500, "completed": 100, "failed": 0},
        }
        for name in names
    ]  # fmt: skip
    places = {batch["id"]: number for number, batch in enumerate(batches)}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = parse_qs(parts.query)
            if parts.path == "/v1/batches":
                start = places[query["after"][0]] + 1 if "after" in query else 0
                page = batches[start : start + int(query.get("limit", ["20"])[0])]
                self._say({"object": "list", "data": page, "has_more": start + len(page) < count})
            else:
                self._say(batches[places[parts.path.rpartition("/")[2]]])

        def _say(self, value: object) -> None:
            body = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()


def wait(root: Path, cache: Path, port: int) -> None:
    """A tracker that waits for ever. Says so at the start of its first round, and after each."""
    from embedfill.batchapi.lines import EmbeddingsRequest
    from embedfill.config import BatchConfig
    from embedfill.providers.client import BatchClient
    from embedfill.providers.profiles import PROFILES, patience_of
    from embedfill.store.cache import Cache
    from embedfill.store.local import LocalStore
    from embedfill.tracker.advance import Advance
    from embedfill.tracker.maker import this_maker
    from embedfill.tracker.quota import Quota
    from embedfill.tracker.state import State
    from embedfill.tracker.submit import Account

    store = LocalStore(root)
    with BatchClient(f"http://127.0.0.1:{port}/v1") as client:
        account = Account(
            store=store, cache=Cache(cache, store), client=client, space=SPACE, store_id="bench",
            line=EmbeddingsRequest("text-embedding-3-small", "base64", None).line, price_of=lambda _shard: 0.1,
            patience=patience_of(PROFILES["openai"], BatchConfig()), maker=this_maker(),
        )  # fmt: skip
        state = State(store, account.cache, SPACE).refresh()
        print(len(state.open()), flush=True)
        advance = Advance(account, state, _unexpected, Quota(None, 10_000.0))
        advance.run(progress=lambda _texts: print("round", flush=True))


def _unexpected(*_arguments: object) -> NoReturn:
    raise AssertionError("no batch of this provider ends")


# What measures.


def start(*arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, __file__, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def read_line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def stop(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate()


def cpu_seconds(pid: int) -> float:
    """User and system time of a process."""
    values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")


def peak_mb(pid: int) -> float:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) * 1024 / 1e6 if found else 0.0


def measure_state(root: Path, folder: Path) -> dict[str, Any]:
    """The best of several new processes. Warm ones share a cache that the first has filled."""
    runs: dict[str, list[dict[str, float]]] = {"cold": [], "warm": []}
    for number in range(_TRIES):
        runs["cold"].append(_derived(root, folder / f"cache-{number}"))
        runs["warm"].append(_derived(root, folder / "cache-0"))
    return {
        kind: {name: round(min(one[name] for one in found), 4) for name in found[0]} for kind, found in runs.items()
    }


def _derived(root: Path, cache: Path) -> dict[str, float]:
    process = start("--derive", root, cache)
    value: dict[str, float] = json.loads(read_line(process))
    process.communicate()
    return value


def measure_waiting(root: Path, folder: Path, out: int, seconds: float) -> dict[str, Any]:
    server = start("--serve", out)
    tracker = start("--wait", root, folder / "cache-0", read_line(server))
    try:
        waiting = int(read_line(tracker))
        before = cpu_seconds(tracker.pid)
        read_line(tracker)  # the first round's poll has been answered
        first_s = cpu_seconds(tracker.pid) - before
        time.sleep(seconds)
        used_s = cpu_seconds(tracker.pid) - before
        return {
            "in_flight": waiting,
            "peak_mb": round(peak_mb(tracker.pid), 1),
            "core": round(used_s / seconds, 4),
            "first_round_cpu_s": round(first_s, 3),
            "seconds": seconds,
        }
    finally:
        stop(tracker)
        stop(server)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--shards", type=int, default=10_000)
    parser.add_argument("--out", type=int, default=1_000, help="how many of them are in flight")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the waiting is measured")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--derive", nargs=2, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--wait", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.derive:
        print(json.dumps(derive(*options.derive)))
    elif options.serve:
        serve(options.serve)
    elif options.wait:
        wait(Path(options.wait[0]), Path(options.wait[1]), int(options.wait[2]))
    else:
        report(options)


def report(options: argparse.Namespace) -> None:
    folder = Path(tempfile.mkdtemp(prefix="embedfill-bench-"))
    try:
        write_store(folder / "store", options.shards, options.out)
        state = measure_state(folder / "store", folder)
        waiting = measure_waiting(folder / "store", folder, options.out, options.seconds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    ratios = {
        "state_to_limit": round(state["warm"]["state_s"] / LIMITS["state_s"], 2),
        "state_cpu_to_limit": round(state["warm"]["state_cpu_s"] / LIMITS["state_s"], 2),
        "state_to_floor": round(state["warm"]["state_cpu_s"] / state["warm"]["floor_cpu_s"], 2),
        "memory_to_limit": round(waiting["peak_mb"] / LIMITS["peak_mb"], 2),
        "core_to_limit": round(waiting["core"] / LIMITS["core"], 2),
    }
    if options.json:
        print(json.dumps({"shards": options.shards, "state": state, "waiting": waiting, "ratios": ratios}))
        return
    for kind in ("warm", "cold"):
        found = state[kind]
        print(
            f"state of {options.shards:,} shards, {kind}: {found['state_s'] * 1e3:.0f} ms "
            f"(core {found['state_cpu_s'] * 1e3:.0f} ms); listings alone {found['floor_s'] * 1e3:.0f} ms "
            f"(core {found['floor_cpu_s'] * 1e3:.0f} ms)"
        )
    print(
        f"waiting for {waiting['in_flight']:,} batches: peak {waiting['peak_mb']:.0f} MB, {waiting['core']:.2%} of a core"
    )
    print(f"the first round took {waiting['first_round_cpu_s'] * 1e3:.0f} ms of it")
    print("ratios: " + ", ".join(f"{name} {ratio}" for name, ratio in ratios.items()))


if __name__ == "__main__":
    main()
