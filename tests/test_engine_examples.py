"""The engine's examples in configs/: what they call exists, and what they say is true."""

import ast
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from embedfill.engine import effective, settings
from embedfill.engine.command import command

ROOT = Path(__file__).parent.parent
CONFIGS = ROOT / "configs"
TOML = CONFIGS / "engine.toml"
UNIT = CONFIGS / "embedfill-engine.service"
CONTAINER = CONFIGS / "Containerfile"
FLAGS = {option for parameter in command.params for option in parameter.opts}
ENVIRON = dict.fromkeys(("SEARCH_KEY", "UPSTREAM_KEY"), "sk-1234567890") | {
    "REPORTS_KEY": "sk-other",
    "WEBHOOK_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
}
SETTING = re.compile(r'# ?(\w+ = .+|\[\[?engine[.\w"*-]+\]\]?)')


def test_the_configuration_is_one_as_it_stands() -> None:
    loaded = settings.load(TOML, {}, {})
    effective.check(loaded)
    assert loaded.data == ROOT / "runs/engine"
    assert "/runs/" in (ROOT / ".gitignore").read_text().splitlines()


def test_what_is_commented_out_is_a_setting_too_and_none_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "models/my-model").mkdir(parents=True)
    for name in ("model.onnx", "tokenizer.json"):
        (tmp_path / "models/my-model" / name).write_text("{}")
    whole = tmp_path / "configs/engine.toml"
    whole.parent.mkdir()
    whole.write_text("\n".join(_uncommented(line) for line in TOML.read_text().splitlines()))
    loaded = settings.load(whole, {}, ENVIRON)
    effective.check(loaded)
    values = tomllib.loads(whole.read_text())["engine"]
    assert settings.EngineSettings.model_fields.keys() - values.keys() == {"api_key", "while_used"}
    for table, kind in (
        (values["routes"]["gpt-*"], settings.RouteSettings),
        (values["models"]["my-model"], settings.ModelSettings),
        (values["limits"], settings.LimitSettings),
        (values["webhooks"][0], settings.WebhookSettings),
    ):
        assert table.keys() == kind.model_fields.keys()


def _uncommented(line: str) -> str:
    match = SETTING.match(line)
    return match[1] if match else line


def test_defaults_are_the_ones_that_hold() -> None:
    loaded = settings.load(TOML, {}, {}).model_dump() | {"log_level": settings.load(TOML, {}, {}).level}
    for line in TOML.read_text().split("[engine.keys]")[0].splitlines():
        match = re.match(r"# (\w+) = ([^#]+)", line)
        if match and match[1] != "rehearse":
            assert tomllib.loads(f"v = {match[2]}")["v"] == loaded[match[1]], line


def test_the_unit_calls_flags_that_exist() -> None:
    (start,) = re.findall(r"^ExecStart=(.*)$", UNIT.read_text(), re.MULTILINE)
    program, verb, *arguments = shlex.split(start)
    assert (Path(program).name, verb) == ("embedfill", "engine")
    assert {one for one in arguments if one.startswith("--")} <= FLAGS
    grace = float(arguments[arguments.index("--grace") + 1])
    assert float(re.findall(r"^TimeoutStopSec=(\d+)$", UNIT.read_text(), re.MULTILINE)[0]) > grace + 10


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/embedfill/bin/embedfill", sys.executable))
    verified = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stderr) == (0, "")


def test_the_container_starts_what_exists_with_a_key_only() -> None:
    entry, arguments = _instruction("ENTRYPOINT"), _instruction("CMD")
    assert entry == ["embedfill", "engine"]
    assert {one for one in arguments if one.startswith("--")} <= FLAGS
    with command.make_context("engine", list(arguments)) as context:
        given = {name: value for name, value in context.params.items() if value is not None and value != ()}
    assert (str(given["data"]), given["host"], given["port"]) == ("/data", "0.0.0.0", 8420)
    text = CONTAINER.read_text()
    assert "ProxyHandler({})" in text  # a proxy of the environment's knows nothing of this 127.0.0.1
    compile(ast.literal_eval(re.findall(r"HEALTHCHECK.*\\\n +CMD (\[.*\])", text)[0])[-1], "healthcheck", "exec")
    assert "VOLUME /data\n" in text and "EXPOSE 8420\n" in text and ":8420/healthz" in text
    assert re.search(r"^USER (?!root)\w+$", text, re.MULTILINE)
    for copied in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE):
        assert all((ROOT / name).exists() for name in copied.split())


def _instruction(name: str) -> Any:
    return ast.literal_eval(re.findall(rf"^{name} (\[.*\])$", CONTAINER.read_text(), re.MULTILINE)[-1])
