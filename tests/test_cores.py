"""Cores that are given: by affinity, by a control group's quota of either version, and threads that stay below them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from embedfill import cores


def machine(root: Path, groups: str, files: dict[str, str]) -> Path:
    """A fake `/` with the control group files of a process."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "400000 100000"}, 4.0),
        ("0::/a/b\n", {"a/b/cpu.max": "900000 100000", "a/cpu.max": "400000 100000"}, 4.0),
        ("0::/of/the/host\n", {"cpu.max": "50000 100000"}, 0.5),
        ("4:memory:/x\n2:cpu,cpuacct:/docker/1\n", {
            "cpu,cpuacct/docker/1/cpu.cfs_quota_us": "250000\n",
            "cpu,cpuacct/docker/1/cpu.cfs_period_us": "100000\n",
        }, 2.5),
        ("1:cpu:/\n0::/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ("1:cpu:/not/seen/here\n", {
            "cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000",
        }, 3.0),
        ("3:cpuset:/a\n", {"cpuset/a/cpu.cfs_quota_us": "1", "cpuset/a/cpu.cfs_period_us": "1"}, None),
        ("0::/\n", {"cpu.max": "nonsense"}, None),
        ("0::/\n", {"cpu.max": "100000 0"}, None),
        ("", {}, None),
    ],
)  # fmt: skip
def test_a_quota_of_either_version_is_read(
    tmp_path: Path, groups: str, files: dict[str, str], expected: float | None
) -> None:
    assert cores.quota(machine(tmp_path, groups, files)) == expected


def test_a_system_without_control_groups_has_no_quota(tmp_path: Path) -> None:
    assert cores.quota(tmp_path) is None


@pytest.mark.parametrize(("quota", "expected"), [(0.5, 1), (1.5, 1), (2.0, 2), (64.0, 3), (None, 3)])
def test_only_whole_cores_count_and_never_more_than_are_listed(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1, 5}, raising=False)
    monkeypatch.setattr(cores, "_own_quota", lambda: quota)
    assert cores.available() == expected
    assert cores.threads(0) == cores.threads(99) == expected
    assert cores.threads(1) == 1


def test_libraries_are_bound_unless_the_user_has_said_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "available", lambda: 3)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    for name in ("OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    cores.bound_libraries()
    bound = [os.environ[name] for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")]
    assert bound == ["7", "3", "3"]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs an affinity")
@pytest.mark.parametrize("model", ["all-MiniLM-L6-v2", "wordllama-256"])
def test_a_model_on_one_core_has_one_thread_at_work(model: str) -> None:
    """Counts the threads of a process that is given one core and asks for more: neither numpy, nor tokenizers, nor
    ONNX Runtime adds one that computes."""
    for package in ("tokenizers", "onnxruntime" if model.startswith("all") else "wordllama"):
        pytest.importorskip(package)
    script = f"""
import os
os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}})
from embedfill import cores
cores.bound_libraries()
from embedfill.models.load import load
model = load({model!r}, 8)
model.embed([f"some text of number {{n}}" for n in range(200)])
print(cores.available(), len(os.listdir("/proc/self/task")))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    given, tasks = map(int, done.stdout.split())
    assert given == 1
    assert tasks <= 3, "beside the main one ONNX Runtime has one that waits, and tokenizers its only one"
