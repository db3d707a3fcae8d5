#!/usr/bin/env python3
"""Seconds per stage and peak memory of a whole run over short texts, with the static model and the local engine.

Beside ours, from the same machine and minute: the *limit*, the same model called directly on the same texts in one
process (no chunks, no files, no server, no index), and the *peer*, that model through its own library. Run it with the
project's interpreter:

    .venv/bin/python scripts/bench_run.py                 # 250,000 and 1,000,000 texts
    .venv/bin/python scripts/bench_run.py --quick --json  # 20,000 texts, under a minute
"""

import argparse
import itertools
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

BATCH = 10_000
_PROCESSES = {"embedfill": "embedfill.cli", "engine": "embedfill.engine", "worker": "multiprocessing"}


def texts(count: int, start: int = 0) -> Iterator[str]:
    """Short texts of 8 to 30 words, all different, with a skewed vocabulary as language has."""
    chance = random.Random(7)
    words = ["".join(chance.choice("aeioubcdfglmnprst") for _ in range(chance.randint(2, 9))) for _ in range(20_000)]
    weights = list(itertools.accumulate(1 / (rank + 3) for rank in range(len(words))))
    for number in range(start, start + count):
        yield f"{number} " + " ".join(chance.choices(words, cum_weights=weights, k=chance.randint(8, 30)))


def write_corpus(folder: Path, count: int) -> None:
    schema = pa.schema([("id", pa.int64()), ("text", pa.string())])
    with pq.ParquetWriter(folder / "corpus.parquet", schema) as writer:
        source = texts(count)
        for start in range(0, count, BATCH):
            rows = [next(source) for _ in range(min(BATCH, count - start))]
            writer.write_table(pa.table({"id": range(start, start + len(rows)), "text": rows}, schema))


def write_config(folder: Path) -> Path:
    path = folder / "bench.toml"
    path.write_text(
        'store = "store"\n[corpus]\npaths = ["corpus.parquet"]\n[embedding]\nmodel = "wordllama-256"\n'
        '[cache]\ndir = "cache"\n'
    )
    return path


def children(pid: int) -> Iterator[int]:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError, ValueError):
            continue
        if parent == pid:
            found = int(stat.parent.name)
            yield found
            yield from children(found)


def peak_bytes(pid: int) -> tuple[str, int]:
    """What kind of process it is and its resident high-water mark."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_text()
        status = Path(f"/proc/{pid}/status").read_text()
        peak = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return "gone", 0
    return next((name for name, mark in _PROCESSES.items() if mark in command), "other"), peak


def run(config: Path) -> dict[str, Any]:
    """One `embedfill run` as a process: its summary, wall seconds, and the peak memory of each kind of process."""
    start = time.monotonic()
    command = [sys.executable, "-m", "embedfill.cli", "run", str(config), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    peaks: dict[str, int] = {}
    while process.poll() is None:
        for pid in (process.pid, *children(process.pid)):
            kind, peak = peak_bytes(pid)
            peaks[kind] = max(peaks.get(kind, 0), peak)
        time.sleep(0.1)
    assert process.stdout is not None
    summary = json.loads(process.stdout.read())
    if process.returncode:
        sys.exit(f"the run failed: {summary}")
    return {"summary": summary, "wall_s": time.monotonic() - start, "peak_bytes": peaks}


def direct(count: int) -> float:
    """Seconds of the model alone."""
    from embedfill.models.load import load

    model = load("wordllama-256")
    source = list(texts(count))
    start = time.monotonic()
    for at in range(0, count, BATCH):
        model.embed(source[at : at + BATCH])
    return time.monotonic() - start


def library(count: int) -> float:
    """Seconds of the model through the library that it comes from."""
    from tokenizers import Tokenizer
    from wordllama.inference import WordLlamaInference

    from embedfill.models.files import package_file
    from embedfill.models.static import read_tensor

    tokenizer = Tokenizer.from_file(str(package_file("wordllama", "tokenizers/l2_supercat_tokenizer_config.json")))
    table = read_tensor(package_file("wordllama", "weights/l2_supercat_256.safetensors"), "embedding.weight")
    peer = WordLlamaInference(table, tokenizer)
    source = list(texts(count))
    start = time.monotonic()
    peer.embed(source, norm=True)
    return time.monotonic() - start


def measure(count: int, folder: Path) -> dict[str, Any]:
    write_corpus(folder, count)
    config = write_config(folder)
    time.sleep(2.5)  # a file changed within two seconds of a scan is read again by the next one
    first, second = run(config), run(config)
    sample = min(count, 50_000)
    limit_s, peer_s = direct(sample) * count / sample, library(sample) * count / sample
    summary = first["summary"]
    return {
        "texts": summary["texts"],
        "seconds": summary["seconds"],
        "wall_s": round(first["wall_s"], 2),
        "second_run_s": round(second["wall_s"], 2),
        "index": summary["index"],
        "peak_mb": {kind: round(peak / 1e6) for kind, peak in first["peak_bytes"].items()},
        "limit_s": round(limit_s, 2),
        "peer_s": round(peer_s, 2),
        "ours_to_limit": round(first["wall_s"] / limit_s, 2),
        "ours_to_peer": round(first["wall_s"] / peer_s, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--texts", type=int, action="append", help="how many; may be given several times")
    parser.add_argument("--quick", action="store_true", help="20,000 texts")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args()
    sizes = [20_000] if options.quick else options.texts or [250_000, 1_000_000]
    runs = []
    for size in sizes:
        folder = Path(tempfile.mkdtemp(prefix="embedfill-bench-"))
        try:
            runs.append(measure(size, folder))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if not options.json:
            print(json.dumps(runs[-1], indent=1))
    growth = {}
    if len(runs) > 1:
        grown = (runs[-1]["peak_mb"]["embedfill"] - runs[0]["peak_mb"]["embedfill"]) * 1e6
        growth = {"embedfill_bytes": grown, "index_bytes": runs[-1]["index"]["bytes"] - runs[0]["index"]["bytes"]}
    if options.json:
        print(json.dumps({"ours": runs, "growth": growth}))
    elif growth:
        print(
            f"peak memory grew by {growth['embedfill_bytes'] / 1e6:.0f} MB, the index by {growth['index_bytes'] / 1e6:.0f} MB"
        )


if __name__ == "__main__":
    main()
