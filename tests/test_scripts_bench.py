"""The benchmarks of the tracker and of transfers still run, and say what they say they measure; not how fast."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).parent.parent / "scripts"


def bench(name: str, *options: object) -> dict[str, Any]:
    command = [sys.executable, str(SCRIPTS / name), "--json", *map(str, options)]
    done = subprocess.run(command, capture_output=True, check=True, timeout=120)
    value: dict[str, Any] = json.loads(done.stdout)
    return value


def test_the_tracker_waits_for_all_that_is_in_flight() -> None:
    said = bench("bench_tracker.py", "--shards", 200, "--out", 30, "--seconds", 0.1)
    assert said["waiting"]["in_flight"] == 30
    assert 0 < said["state"]["warm"]["floor_s"] < said["state"]["cold"]["state_s"]
    assert 20 < said["waiting"]["peak_mb"] < 300


def test_a_download_that_is_cut_arrives_whole_in_flat_memory() -> None:
    said = bench("bench_download.py", "--mb", 30)
    assert [said[name]["exact"] for name in ("ours_whole", "ours_cut", "sdk_whole", "sdk_cut")] == [
        True,
        True,
        True,
        False,
    ]
    assert said["ours_cut"]["growth_mb"] < 15 < said["sdk_whole"]["growth_mb"]


def test_the_engine_takes_and_gives_files_in_flat_memory() -> None:
    said = bench("bench_transfer.py", "--upload-mb", 40, "--download-mb", 80, "--rounds", 1)
    assert said["whole"]
    assert said["growth_mb"] < 30
    assert all(0 < said[what]["times_slower"] < 100 for what in ("upload", "download"))


def test_what_the_engine_costs_beside_its_limit() -> None:
    said = bench("bench_engine.py", "--lines", 500, "--only", "null_base64")
    found = said["null_base64"]
    assert found["engine"]["cpu_s"] > found["beside"]["cpu_s"] > 0 < found["engine"]["output_mb"] < 1
    assert said["ratios"]["null_base64_to_goal"] > 0 < said["ratios"]["null_base64_cpu_to_beside"]
