"""The README is true: its commands run, its configuration loads, what it names is there."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedfill.cli.main import call
from embedfill.config import parse
from tests.chain_fixtures import documents
from tests.chat_fixtures import labelled
from tests.provider_fixtures import Provider

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    line[2:].partition("  #")[0].strip()
    for kind, text in BLOCKS
    if kind == "console"
    for line in text.splitlines()
    if line.startswith("$ ")
]


def test_a_result_stands_within_the_first_thirty_lines() -> None:
    head = "\n".join(README.splitlines()[:30])
    assert "scripts/quickstart" in head and "recall@10" in head and "python/faq" in head


def test_every_command_is_one_that_is_tested() -> None:
    known = ("embedfill ", "scripts/quickstart", "scripts/test", 'pip install ".[')
    assert COMMANDS and all(command.startswith(known) for command in COMMANDS)


def walk_of(*verbs: str) -> list[list[str]]:
    commands = [shlex.split(command)[1:] for command in COMMANDS if command.startswith("embedfill ")]
    others = ("batch", "engine")
    return [arguments for arguments in commands if arguments[0] in (verbs or {one[0] for one in commands} - {*others})]


def test_its_own_documents_walk_runs_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Every command of the README on a configuration, in its order, in a folder with a corpus where `init` expects one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "documents").mkdir()
    rows = [{**row, "url": "https://example.org"} for row in documents(range(5))]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "documents" / "pages.parquet")
    walk = walk_of()
    assert [one[0] for one in walk[:5]] == ["init", "plan", "run", "search", "status"]
    assert sorted(one[0] for one in walk[5:]) == ["cancel", "probe", "prune", "rejections"]
    for arguments in walk:
        assert call(arguments) == 0, capfd.readouterr()
    assert call([*walk[3], "--json"]) == 0
    hits = orjson.loads(capfd.readouterr().out.splitlines()[-1])["hits"]
    assert len(hits) == 5


def test_its_prepared_requests_run_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, provider: Provider, capfd: pytest.CaptureFixture[str]
) -> None:
    """Every `embedfill batch` command: the first on this machine's engine, the second on a server that can chat."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.setenv("EMBEDFILL_BATCH__POLL_S", "0.1")  # not the half minute of a provider that is far away
    provider.models["/v1/chat/completions"] = labelled
    body = {"model": "wordllama-256", "input": "a text"}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": body}
    (tmp_path / "requests.jsonl").write_bytes(orjson.dumps(line) + b"\n")
    pq.write_table(
        pa.table({"ticket": ["t1", "t2"], "subject": ["my login", "a refund"]}), tmp_path / "tickets.parquet"
    )
    prompt = next(text for kind, text in BLOCKS if kind == "toml" and "[body]" in text)
    (tmp_path / "prompt.toml").write_text(prompt, encoding="utf-8")
    prepared, table, status, comparison = walk_of("batch")
    assert call(prepared) == 0, capfd.readouterr()
    assert call([*table, "--base-url", provider.url]) == 0, capfd.readouterr()
    assert call(status) == 0 and "2 answered" in capfd.readouterr().out
    assert call(comparison) == 0, capfd.readouterr()
    assert pq.read_table(tmp_path / "labels.parquet").column("custom_id").to_pylist() == ["t1", "t2"]


def test_its_server_answers_the_official_client(tmp_path: Path) -> None:
    """The command as written but for the port, and the program as written but for the address."""
    (arguments,) = walk_of("engine")
    arguments[arguments.index("--port") + 1] = "0"
    (program,) = (text for kind, text in BLOCKS if kind == "python")
    with subprocess.Popen(
        [str(Path(sys.executable).with_name("embedfill")), *arguments], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        url = server.stdout.readline().removeprefix("listening on ").strip()
        program = program.replace("http://127.0.0.1:8420/v1", url)
        printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
        server.terminate()
    assert printed.returncode == 0, printed.stderr
    answered = orjson.loads(printed.stdout)
    assert (answered["custom_id"], len(answered["response"]["body"]["data"][0]["embedding"])) == ("1", 384)


def test_its_configuration_is_a_valid_one(tmp_path: Path) -> None:
    blocks = [text for kind, text in BLOCKS if kind == "toml"]
    config = parse(tomllib.loads(blocks[0]), tmp_path, environ={})
    assert (config.embedding.provider, config.embedding.model) == ("openai", "text-embedding-3-small")


def test_its_overrides_are_real(tmp_path: Path) -> None:
    name, value = re.findall(r"(EMBEDFILL_\w+)=(\w+)", README)[0]
    config = parse({"store": "s", "corpus": {"paths": ["x"]}}, tmp_path, environ={name: value})
    assert config.batch.max_attempts == int(value)


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!http)([^)#]+)\)", README))))
def test_its_links_lead_somewhere(link: str) -> None:
    assert (ROOT / link).exists()


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:scripts|configs)/[\w./-]+)`", README))))
def test_the_files_it_names_exist(path: str) -> None:
    assert (ROOT / path).exists()
