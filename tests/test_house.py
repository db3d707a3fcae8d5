"""How the code looks: docstrings, lengths, names, and that nothing of one machine stands in the tree."""

import ast
import importlib
import os
import pkgutil
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import embedfill
from embedfill.errors import EmbedfillError

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "embedfill").rglob("*.py"))
CODE = [*SOURCES, *sorted((ROOT / "scripts").glob("*.py")), *sorted((ROOT / "tests").rglob("*.py"))]
MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 350
INSIDE = {"BadDataError"}  # exceptions that are caught in the package that raises them, and never reach a caller
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    yield from (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, FUNCTION))


def tracked() -> list[Path]:
    """Every file that is in git or could be added to it; of an unpacked archive, every file."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=False
    )
    if listed.returncode == 0:
        return [path for entry in listed.stdout.split(b"\0") if entry and (path := ROOT / os.fsdecode(entry)).is_file()]
    return [path for path in ROOT.rglob("*") if path.is_file() and not path.relative_to(ROOT).parts[0].startswith(".")]


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_a_module_says_first_what_it_is(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    sentence = docstring.partition("\n\n")[0]
    assert len(sentence.split()) >= 3, "no first sentence"
    assert re.search(r"[.:;]$|[.:] ", sentence), f"no sentence: {sentence}"


@pytest.mark.parametrize("path", CODE, ids=name)
def test_functions_and_files_are_short(path: Path) -> None:
    long = {f.name: size for f in functions(path) if (size := (f.end_lineno or 0) - f.lineno + 1) > MAX_FUNCTION_LINES}
    assert not long
    assert path.parent.name == "tests" or len(path.read_text().splitlines()) <= MAX_FILE_LINES


def test_no_exception_is_made_outside_the_error_tree() -> None:
    for module in pkgutil.walk_packages(embedfill.__path__, "embedfill."):
        found = vars(importlib.import_module(module.name)).values()
        own = [kind for kind in found if isinstance(kind, type) and kind.__module__ == module.name]
        raised = [kind for kind in own if issubclass(kind, BaseException) and not issubclass(kind, EmbedfillError)]
        assert {kind.__name__ for kind in raised} <= INSIDE, module.name


def test_every_import_is_declared() -> None:
    """What is installed only because something else needs it may go away with that."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    declared = {re.split(r"[\[<>=~! ]", line)[0].replace("-", "_").lower() for line in lines}
    modules = {"faiss": "faiss_cpu", "toktok": "toktok_rs", "pydantic_core": "pydantic"}
    for path in SOURCES:
        for module in imported(path):
            assert modules.get(module, module) in declared, f"{name(path)} imports {module}"


def imported(path: Path) -> set[str]:
    """Top-level modules that a file imports and that are neither the standard library's nor ours."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"embedfill"}


def test_nothing_of_one_machine_is_in_the_tree() -> None:
    words = ["/" + "work/", "/tmp/" + "w/", ".." + "/shared", "/root/" + ".", "DESIGN" + ".md", "STYLE" + ".md"]
    pattern = re.compile("|".join(map(re.escape, words)).encode())
    texts = [path for path in tracked() if path.suffix not in (".parquet", ".onnx")]
    assert len(texts) > len(SOURCES)
    found = {name(path): match[0].decode() for path in texts if (match := pattern.search(path.read_bytes()))}
    assert not found


@pytest.mark.parametrize("path", [ROOT / "scripts/test", ROOT / "scripts/quickstart", ROOT / ".ci/run"], ids=name)
def test_scripts_are_executable_bash_that_parses(path: Path) -> None:
    assert os.access(path, os.X_OK)
    assert path.read_text().startswith("#!/usr/bin/env bash\n")
    subprocess.run(["bash", "-n", str(path)], check=True, stdin=subprocess.DEVNULL)
