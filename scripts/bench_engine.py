#!/usr/bin/env python3
"""A batch of 50,000 lines of one input each: what the engine itself costs a line, and whether the model is the bottleneck.

A batch is validated, run and finalized by the engine's own threads, without HTTP. `null` is a model that costs nothing
(8 dimensions, a token for each letter), so what is left is the engine's own; beside it, from the same minute,
the *limit*: one thread that reads the same lines, parses each, writes the same output and syncs it, and keeps no record
of anything. `static` is the fastest real model; beside it, the *model alone* over the same texts. Each is a process of
its own. Seconds of the core are those of all threads together. Memory is how far the process' peak lies above what it
held before the batch. Run it with the project's interpreter:

    .venv/bin/python scripts/bench_engine.py
    .venv/bin/python scripts/bench_engine.py --lines 5000 --json
"""

import argparse
import gc
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MB = 1_000_000
_GOAL_US = 20.0
_NULL = "text-embedding-3-small"
_STATIC = "wordllama-256"
_WORDS = 40  # of an input
_MODELS = {"null": _NULL, "static": _STATIC}
_CASES = [f"{name}_{encoding}" for name in _MODELS for encoding in ("float", "base64")]


# What runs in processes of its own.


class Null:
    """A model that does nothing."""

    name, dimensions, max_tokens = _NULL, 8, 8192
    shorter_dimensions: Sequence[int] = ()
    special_tokens, vocabulary = 0, 1 << 20

    def __init__(self) -> None:
        self.tokenizer = self
        self._vectors = np.full((10_000, 8), 8**-0.5, np.float32)

    def count(self, texts: Sequence[str]) -> list[int]:
        return list(map(len, texts))

    def offsets(self, text: str) -> NDArray[np.int64]:
        return np.arange(len(text))

    def embed(self, inputs: Sequence[str | Sequence[int]]) -> NDArray[np.float32]:
        return self._vectors[: len(inputs)]


def engine(folder: Path, model: str, source: Path) -> dict[str, Any]:
    """From the batch's creation to its end."""
    from embedfill.engine.service import Engine
    from embedfill.engine.settings import EngineSettings
    from embedfill.engine.state.batches import NewBatch
    from embedfill.engine.state.files import new_file

    running = Engine(EngineSettings(data=folder, rehearse=[_NULL]))
    running.pool.add(_NULL, Null)
    running.pool.runner(model)  # loaded before
    gc.freeze()  # as the server does
    running.start()
    part = running.files.new_part()
    part.write_bytes(source.read_bytes())
    file = running.files.adopt(part, new_file(part.stat().st_size, "in.jsonl", "batch", None), "")

    def run() -> str:
        batch = running.batches.create(NewBatch("/v1/embeddings", file.id, "24h", None, None, None, "{}"))
        running.wake()
        while not (batch := running.batches.get(batch.id, "")).ended:
            time.sleep(0.05)  # looking often would be measured, too
        assert batch.request_counts is not None and batch.output_file_id is not None
        assert (batch.status, batch.request_counts.failed) == ("completed", 0)
        return batch.output_file_id

    output, found = _measured(run)
    found["output"] = str(running.files.path(output))
    running.stop()
    return found


def limit(source: str, output: str, copy: str) -> dict[str, Any]:
    """Reading and parsing each line, making each line of output from what it says, writing and syncing it."""
    import orjson

    lines = [orjson.loads(line) for line in Path(output).read_bytes().splitlines()]

    def run() -> None:
        with Path(source).open("rb") as file, Path(copy).open("wb", buffering=1 << 20) as out:
            for raw, line in zip(file, lines, strict=True):
                line["custom_id"] = orjson.loads(raw)["custom_id"]
                out.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
            out.flush()
            os.fsync(out.fileno())

    return _measured(run)[1]


def alone(source: str) -> dict[str, Any]:
    """The static model over the same texts, a thousand at a time."""
    import orjson

    from embedfill.models.load import load

    texts = [orjson.loads(line)["body"]["input"] for line in Path(source).read_bytes().splitlines()]
    model = load(_STATIC)
    model.embed(texts[:10])

    def run() -> None:
        for start in range(0, len(texts), 1000):
            model.embed(texts[start : start + 1000])

    return _measured(run)[1]


def _measured(work: Callable[[], Any]) -> tuple[Any, dict[str, Any]]:
    before_mb, wall, core = _status_mb("VmRSS"), time.perf_counter(), time.process_time()
    value = work()
    return value, {
        "wall_s": round(time.perf_counter() - wall, 3),
        "cpu_s": round(time.process_time() - core, 3),
        "growth_mb": round(_status_mb("VmHWM") - before_mb, 1),
    }


def _status_mb(name: str) -> float:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 / MB if found else 0.0


# What measures.


def write_input(path: Path, model: str, encoding: str, lines: int) -> None:
    chance = random.Random(1)
    words = [
        f"{a}{b}" for a in ("re", "in", "con", "de", "per") for b in ("form", "vert", "port", "duct", "sist", "act")
    ]
    with path.open("w") as file:
        for number in range(lines):
            text = " ".join(chance.choices(words, k=_WORDS))
            body = {"model": model, "input": text, "encoding_format": encoding}
            line = {"custom_id": f"request-{number}", "method": "POST", "url": "/v1/embeddings", "body": body}
            file.write(json.dumps(line) + "\n")


def measure(*arguments: object) -> dict[str, Any]:
    command = [sys.executable, __file__, "--measure", *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(folder: Path, case: str, lines: int) -> dict[str, Any]:
    """The engine with a model, and what stands beside it."""
    name, encoding = case.split("_")
    source = folder / "input"
    write_input(source, _MODELS[name], encoding, lines)
    with tempfile.TemporaryDirectory(dir=folder) as data:
        ours = measure("engine", data, _MODELS[name], source)
        output = Path(ours.pop("output"))
        ours["output_mb"] = round(output.stat().st_size / MB, 1)
        if name == "static":
            beside = measure("alone", source)
        else:
            beside = measure("limit", source, output, Path(data) / "copy")
    ours["us_a_line"] = round(ours["cpu_s"] / lines * 1e6, 2)
    beside["us_a_line"] = round(beside["cpu_s"] / lines * 1e6, 2)
    return {"engine": ours, "beside": beside}


def report(cases: Sequence[str], lines: int, as_json: bool) -> None:
    with tempfile.TemporaryDirectory(prefix="embedfill-bench-") as folder:
        found = {case: compare(Path(folder), case, lines) for case in cases}
    ratios = {}
    for name, one in found.items():
        ratios[f"{name}_cpu_to_beside"] = round(one["engine"]["cpu_s"] / max(one["beside"]["cpu_s"], 1e-3), 2)
        ratios[f"{name}_wall_to_beside"] = round(one["engine"]["wall_s"] / max(one["beside"]["wall_s"], 1e-3), 2)
        if name.startswith("null"):
            ratios[f"{name}_to_goal"] = round(one["engine"]["us_a_line"] / _GOAL_US, 2)
    if as_json:
        print(json.dumps({"lines": lines, **found, "ratios": ratios}))
        return
    for name, one in found.items():
        beside = "model alone" if name.startswith("static") else "limit"
        for who, said in (("engine", one["engine"]), (beside, one["beside"])):
            print(
                f"{name.replace('_', ', '):15} {who:12} {said['wall_s']:7.3f} s, core {said['cpu_s']:7.3f} s, "
                f"{said['us_a_line']:6.2f} µs a line, {said['growth_mb']:6.1f} MB more than before"
            )
    print("ratios: " + ", ".join(f"{name} {ratio}" for name, ratio in ratios.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--lines", type=int, default=50_000, help="of the batch; 50,000 is the most")
    parser.add_argument("--only", nargs="+", choices=_CASES, default=_CASES, metavar="CASE", help=", ".join(_CASES))
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        what, *arguments = options.measure
        print(json.dumps(one_measure(what, arguments)))
    else:
        report(options.only, options.lines, options.json)


def one_measure(what: str, arguments: list[str]) -> dict[str, Any]:
    if what == "engine":
        folder, model, source = arguments
        return engine(Path(folder), model, Path(source))
    if what == "limit":
        return limit(*arguments)
    return alone(*arguments)


if __name__ == "__main__":
    main()
