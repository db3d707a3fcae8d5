"""`embedfill init`: what it writes loads, is complete, and replaces nothing unless told to."""

import json
import re
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner
from pydantic import BaseModel

from embedfill import config
from embedfill.cli import init
from embedfill.errors import UsageError
from embedfill.models import known


def uncommented() -> str:
    return re.sub(r"^#: ", "", init.template(), flags=re.MULTILINE)


def settings(model: type[BaseModel], prefix: str = "") -> dict[str, object]:
    """Every key with its default, dotted."""
    found: dict[str, object] = {}
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found |= settings(kind, f"{name}.")
        elif not field.exclude:
            found[prefix + name] = ... if field.is_required() else field.default
    return found


def flat(raw: dict[str, object], prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in raw.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {prefix + name: value}
    return found


def test_template_loads_as_it_is_with_every_default(tmp_path: Path) -> None:
    init.write(tmp_path / "e.toml")
    loaded = config.load(tmp_path / "e.toml", {})
    plain = config.parse({"store": loaded.store, "corpus": {"paths": loaded.corpus.paths}}, tmp_path, environ={})
    assert loaded == plain
    known.resolve(loaded.embedding)


def test_template_names_every_setting_and_no_other() -> None:
    assert set(flat(tomllib.loads(uncommented()))) == set(settings(config.Config))


def test_template_shows_the_real_defaults(tmp_path: Path) -> None:
    shown = flat(config.parse(tomllib.loads(uncommented()), tmp_path, environ={}).model_dump())
    real = {key: value for key, value in settings(config.Config).items() if value is not None and value is not ...}
    assert {key: shown[key] for key in real} == real


def test_a_setting_without_default_is_called_an_example() -> None:
    lines = init.template().splitlines()
    table = ""
    for at, line in enumerate(lines):
        table = line.strip("[]") + "." if line.startswith("[") else table
        match = re.match(r"#: (\w+) =", line)
        if match and settings(config.Config)[table + match[1]] is None:
            above = [text for text in lines[:at] if not text.startswith("#: ")]
            comment = " ".join(above[-3:])
            assert "xample" in comment, f"{table}{match[1]}"


def test_writes_the_default_name_and_tells_what_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(init.command, [])
    assert result.exit_code == 0
    assert "embedfill plan embedfill.toml" in result.stdout
    assert (tmp_path / "embedfill.toml").read_text() == init.template()


def test_json_is_one_object(tmp_path: Path) -> None:
    result = CliRunner().invoke(init.command, [str(tmp_path / "a.toml"), "--json"])
    assert json.loads(result.stdout) == {"path": str(tmp_path / "a.toml")}


def test_refuses_to_replace_a_file_unless_forced(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("mine")
    with pytest.raises(UsageError, match="already there") as caught:
        init.write(path)
    assert "--force" in caught.value.hint
    assert path.read_text() == "mine"
    init.write(path, force=True)
    assert path.read_text() == init.template()


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere"):
        init.write(tmp_path / "nowhere" / "e.toml")
