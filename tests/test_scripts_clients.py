"""The script of real clients knows what it drives. It is not run here: it installs what it drives."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.engine_fixtures import EngineProcess

ROOT = Path(__file__).parent.parent
CLIENTS = ROOT / "scripts" / "clients"


def conformance(*arguments: str) -> str:
    environ = {**os.environ, "PYTHON": sys.executable}
    command = ["bash", str(ROOT / "scripts" / "conformance"), *arguments]
    return subprocess.run(command, env=environ, check=True, capture_output=True, text=True, timeout=60).stdout


def test_its_help_and_its_list_name_every_client_once() -> None:
    listed = [line.split()[0] for line in conformance("--list").splitlines()]
    assert len(listed) == len(set(listed)) >= 9
    assert {"openai-1", "openai-2", "openai-3", "batchwizard", "autobatcher", "langchain", "llama-index"} <= set(listed)
    said = " ".join(conformance("--help").split())
    assert all(name in said for name in listed)
    assert all(option in said for option in ("--quick", "--only", "--json", "--checks"))


def test_every_client_has_a_driver_and_every_driver_a_client() -> None:
    tree = ast.parse((CLIENTS / "catalog.py").read_text())
    named = {
        node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and str(node.value).endswith(".py")
    }
    assert named == {path.name for path in CLIENTS.glob("drive_*.py")}


@pytest.mark.parametrize("path", sorted(CLIENTS.glob("*.py")), ids=lambda path: path.name)
def test_its_files_parse_and_say_what_they_are(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    assert len(path.read_text().splitlines()) <= 350


def test_what_it_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(CLIENTS))
    import report

    checks = [
        {"check": name, "outcome": outcome, "detail": "why", "seconds": 1.0}
        for name, outcome in (("one", "ok"), ("two", "failed"), ("three", "skipped"))
    ]
    outcomes = [report.Outcome("a", "a 1.0", checks), report.Outcome("b", "b 2.0", checks[:1])]
    text = report.as_text(outcomes, checks=False)
    assert text.splitlines()[-1] == "2 passed, 1 failed, 1 skipped"
    assert "failed  two: why" in text and "ok      one" not in text
    assert "ok      one: why" in report.as_text(outcomes, checks=True)
    assert json.loads(json.dumps(report.as_json(outcomes)))["failed"] == 1


def test_the_shape_of_the_api_has_the_verbs_that_the_engine_has(engine: EngineProcess) -> None:
    paths = yaml.safe_load((ROOT / "tests" / "openapi" / "engine.yaml").read_text())["paths"]
    assert len(paths) >= 17
    for path, verbs in paths.items():
        told = engine.http.request("PROPFIND", engine.url + re.sub(r"{\w+}", "x", path)).headers["allow"]
        assert set(told.split(", ")) - {"HEAD"} == {verb.upper() for verb in verbs if verb != "parameters"}, path
