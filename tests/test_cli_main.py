"""The contract that scripts rely on, for every verb: one object on stdout, words on stderr, documented exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from embedfill.cli import common, main
from embedfill.cli.main import _VERBS, Verbs, call
from embedfill.cli.main import cli as group
from embedfill.errors import BillingError, EmbedfillError, PendingError
from tests.chain_fixtures import Chain, documents
from tests.cli_fixtures import Cli, run_process

ROOT = Path(__file__).parent.parent


def arguments_of(verb: str, config: object) -> list[object]:
    more: dict[str, list[object]] = {"search": ["words"], "eval": ["--queries", "q.parquet", "--qrels", "r.parquet"]}
    return [verb, config, *more.get(verb, [])]


VERBS_WITH_CONFIG = ["plan", "run", "status", "search", "eval"]


@pytest.mark.parametrize("verb", _VERBS)
def test_the_help_of_every_verb_shows_an_example(cli: Cli, verb: str) -> None:
    ran = cli(verb, "--help")
    assert (ran.code, ran.err) == (0, "")
    example = ran.out.partition("Example")[2]
    assert f"embedfill {verb} " in example


def test_the_overview_names_every_verb_as_its_own_help_does(cli: Cli) -> None:
    ran = cli("--help")
    assert ran.code == 0
    context = click.Context(group)
    assert isinstance(group, Verbs)
    for verb in group.list_commands(context):
        command = group.get_command(context, verb)
        assert command is not None and command.help is not None
        assert command.help.replace("\n", " ").startswith(_VERBS[verb])
        assert f"\n  {verb} " in ran.out
    assert "130 interrupted" in ran.out


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["nosuch"], []], ids=str)
def test_the_overview_loads_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys\nfrom embedfill.cli.main import call\n"
        f"call({arguments!r})\n"
        "heavy = {'faiss', 'pyarrow', 'numpy', 'pydantic', 'onnxruntime', 'httpx', 'tokenizers', 'starlette'}\n"
        "print('loaded', sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded []"


def test_without_a_verb_the_help_is_shown_on_stderr(cli: Cli) -> None:
    ran = cli()
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("Usage: embedfill") and "error:" not in ran.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nosuch"], "nosuch"), (["run"], "CONFIG"), (["run", "x.toml", "--nosuch"], "--nosuch"),
        (["search", "x.toml", "q", "-k", "0"], "-k"), (["search", "x.toml", "q", "-k", "many"], "many"),
        (["search", "x.toml"], "QUERY"), (["eval", "x.toml"], "--queries"), (["plan", "a", "b"], "b"),
        (["--nosuch"], "--nosuch"), (["init", "a", "b"], "b"), (["engine", "--port", "x"], "--port"),
    ],
    ids=str,
)  # fmt: skip
def test_wrong_usage_is_exit_2_in_words_and_in_json(cli: Cli, arguments: list[str], words: str) -> None:
    if arguments[0] != "engine":  # which has no --json
        ran = cli(*arguments, "--json")
        assert (ran.code, ran.error["code"]) == (2, "usage")
        assert words in ran.error["message"] and "--help" in ran.error["hint"]
    plain = cli(*arguments)
    assert (plain.code, plain.out) == (2, "")
    assert words in plain.err and "Traceback" not in plain.err


@pytest.mark.parametrize("verb", VERBS_WITH_CONFIG)
def test_a_configuration_that_is_not_there(cli: Cli, verb: str, tmp_path: Path) -> None:
    ran = cli(*arguments_of(verb, tmp_path / "none.toml"), "--json")
    assert (ran.code, ran.error["code"]) == (2, "usage")
    assert "none.toml" in ran.error["message"] and "embedfill init" in ran.error["hint"]


@pytest.mark.parametrize("verb", VERBS_WITH_CONFIG)
@pytest.mark.parametrize(
    ("toml", "key", "value"),
    [
        ("[corpus]\npaths=['a']\n[chunking]\nmax_tokens = 'many'", "chunking.max_tokens", "many"),
        ("[corpus]\npaths=['a']\n[embedding]\nmodel = 'no-such-model'", "embedding.model", "no-such-model"),
        ("[corpus]\npaths=['a']\n[embedding]\ntemplate = '{body}'", "embedding.template", "{body}"),
        ("[corpus]\npaths=['a']\n[embeding]\nmodel = 'x'", "embeding", "x"),
        ("[corpus]\npaths=['a']\n[chunking]\nmax_tokens = 100000", "chunking.max_tokens", "100000"),
    ],
    ids=["type", "model", "template", "table", "limit"],
)  # fmt: skip
def test_a_wrong_configuration_names_key_and_value(
    cli: Cli, verb: str, toml: str, key: str, value: str, tmp_path: Path
) -> None:
    (tmp_path / "c.toml").write_text(f"store = 'made-by-nobody'\n{toml}\n")
    ran = cli(*arguments_of(verb, tmp_path / "c.toml"), "--json")
    assert (ran.code, ran.error["code"]) == (2, "config")
    assert key in ran.error["message"] and value in ran.error["message"]
    assert [path.name for path in tmp_path.iterdir()] == ["c.toml"]


@pytest.mark.parametrize("verb", ["status", "search", "eval"])
def test_looking_at_a_store_that_is_not_there_makes_none(cli: Cli, chain: Chain, verb: str) -> None:
    chain.write(documents(range(3))).config()
    before = sorted(path.name for path in chain.folder.iterdir())
    ran = cli(*arguments_of(verb, chain.config_path), "--json")
    assert (ran.code, ran.error["code"]) == (2, "usage")
    assert "embedfill run" in ran.error["hint"]
    assert sorted(path.name for path in chain.folder.iterdir()) == before


def boom(error: BaseException) -> click.Command:
    def callback(debug: bool, json: bool) -> None:
        raise error

    options = [click.Option([f"--{name}"], is_flag=True) for name in ("debug", "json")]
    return click.Command("status", callback=callback, params=[*options])


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch, cli: Cli) -> Cli:
    """A `status` that raises the error it is given first."""

    def run(error: BaseException, *arguments: str) -> object:
        monkeypatch.setattr(Verbs, "get_command", lambda *_: boom(error))
        return cli("status", *arguments)

    return run  # type: ignore[return-value]


def test_an_unexpected_exception_is_words_unless_debugging(failing: Cli) -> None:
    ran = failing(ZeroDivisionError("oh"), "--json")
    assert (ran.code, ran.error["code"]) == (1, "internal")
    assert ran.error["message"] == "ZeroDivisionError: oh" and "--debug" in ran.error["hint"]
    shown = failing(ZeroDivisionError("oh"), "--json", "--debug")
    assert "Traceback" in shown.err and shown.json["error"]["code"] == "internal"


def test_an_interrupt_is_130_and_says_that_nothing_is_lost(failing: Cli) -> None:
    for error in (KeyboardInterrupt(), click.Abort()):
        ran = failing(error, "--json")
        assert (ran.code, ran.error["code"]) == (130, "interrupted")
        assert failing(error).out == ""


@pytest.mark.parametrize(
    ("error", "code"),
    [(BillingError("m", "h"), 5), (PendingError("m", "h"), 4), (EmbedfillError("m", "h"), 1), (MemoryError(), 1)],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_every_kind_of_error_has_its_code(failing: Cli, error: Exception, code: int) -> None:
    assert failing(error).code == code
    assert failing(error, "--json").json.keys() == {"error"}


HOSTILE = "\x1b[2J\x9b31m\x07\u202e"


def test_what_an_error_quotes_does_not_steer_the_terminal(failing: Cli) -> None:
    ran = failing(EmbedfillError(f"the provider said: {HOSTILE}\nand more", f"see {HOSTILE}"), "--json")
    assert not {"\x1b", "\x9b", "\x07", "\u202e"} & set(ran.err)
    assert "and more" in ran.err and ran.err.count("\n") == 3
    assert ran.json["error"]["message"].endswith("and more")


def test_a_name_that_is_not_utf_8_is_said_all_the_same(failing: Cli) -> None:
    ran = failing(EmbedfillError("no such file: \udce9t\udce9.toml", ""), "--json")
    assert ran.code == 1
    assert json.loads(ran.out)["error"]["message"] == "no such file: \udce9t\udce9.toml"
    assert "no such file" in ran.err


def test_output_is_utf_8_json_and_readable_text_in_any_locale() -> None:
    program = "from embedfill.cli import common, main\nmain.call = lambda _: common.show({'a': '漢…'}, %s, lambda: ['漢…'])\nmain.main([])"
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    for as_json, expected in ((True, '{"a":"漢…"}\n'.encode()), (False, b"??\n")):
        done = subprocess.run(
            [sys.executable, "-c", program % as_json], env=environment, capture_output=True, check=False
        )
        assert (done.stdout, done.stderr) == (expected, b"")


def test_a_reader_that_leaves_is_no_traceback() -> None:
    command = f"{sys.executable} -m embedfill.cli --help | true; exit ${{PIPESTATUS[0]}}"
    for _ in range(3):
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, cwd=ROOT)
        assert done.stderr == ""


def test_the_console_script_is_this(tmp_path: Path) -> None:
    assert run_process("--version").out.startswith("embedfill, version ")
    ran = run_process("plan", tmp_path / "none.toml", "--json")
    assert (ran.code, ran.error["code"]) == (2, "usage")


def test_main_exits_with_the_code_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    for code in (0, 3, 130):
        monkeypatch.setattr(main, "call", lambda _, code=code: code)
        with pytest.raises(SystemExit) as stopped:
            main.main(["status"])
        assert stopped.value.code == code
    assert call(["--version"]) == 0


@pytest.mark.parametrize(
    ("usd", "shown"),
    [
        (None, "unknown"),
        (0.0, "$0"),
        (0.00012, "$0.0001"),
        (0.5, "$0.5000"),
        (12.3456, "$12.35"),
        (1234.5, "$1,234.50"),
    ],
)
def test_money_for_a_reader(usd: float | None, shown: str) -> None:
    assert common.money(usd).startswith(shown)


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2_500_000, "2.5 MB"), (3e13, "30.0 TB")]
)
def test_sizes_for_a_reader(count: float, shown: str) -> None:
    assert common.size(count) == shown
