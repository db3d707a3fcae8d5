"""`embedfill rejections`: what was left out for a reader and for a script, and refusals forgiven."""

from pathlib import Path

import pytest

from embedfill import ids
from embedfill.records import Refusal
from tests.chain_fixtures import Chain, documents, sentence, settle
from tests.cli_fixtures import Cli

TEXT = ids.text_id(sentence(1)).hex()


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """A published corpus with a row without an id, and a text that was refused for good."""
    chain = Chain(tmp_path_factory.mktemp("refused"))
    chain.write([*documents(range(3)), {"id": None, "title": "t", "text": "x"}]).run()
    refuse(chain, 0)
    return chain


def refuse(chain: Chain, time: int) -> None:
    for number in range(3):
        settle(chain, 10 * time + number, [Refusal(TEXT, "policy", "not \x1b[31mthis", 1)])


def test_for_a_reader(cli: Cli, refused: Chain) -> None:
    ran = cli("rejections", refused.config_path)
    assert (ran.code, ran.err) == (0, "")
    first, second = ran.out.splitlines()
    assert first.startswith("rejected  null_id  corpus/corpus.parquet row 3: the id")
    assert second == f"rejected  policy  text {TEXT}, in document doc-1: not  [31mthis"


def test_for_a_script(cli: Cli, refused: Chain) -> None:
    said = cli("rejections", refused.config_path, "--json").json["rejections"]
    assert [set(one) for one in said] == [{"code", "message", "document_id", "file", "row", "text_id"}] * 2
    assert [(one["code"], one["row"], one["text_id"]) for one in said] == [("null_id", 3, None), ("policy", None, TEXT)]


def test_exported(cli: Cli, refused: Chain, tmp_path: Path) -> None:
    ran = cli("rejections", refused.config_path, "--export", tmp_path / "out.csv", "--json")
    assert ran.json == {"exported": 2, "path": str(tmp_path / "out.csv")}
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 3
    assert cli("rejections", refused.config_path, "--export", tmp_path / "out.txt", "--json").code == 2


def test_a_name_that_nothing_has(cli: Cli, refused: Chain) -> None:
    ran = cli("rejections", refused.config_path, "--retry", "doc-0", "--json")
    assert ran.code == 2 and "doc-0" in ran.error["message"]
    ran = cli("rejections", refused.config_path, "--retry", "all", "--export", "x.csv", "--json")
    assert ran.code == 2 and "do not go together" in ran.error["message"]


def test_forgiven_texts_go_out_with_the_next_run(cli: Cli, refused: Chain) -> None:
    for number, options in enumerate((["--retry", "all"], ["--retry", TEXT], ["--retry-code", "policy"]), 1):
        assert cli("rejections", refused.config_path, *options, "--json").json == {"forgiven": 1}
        assert "policy" not in cli("rejections", refused.config_path).out
        assert "no text stands refused" in cli("rejections", refused.config_path, "--retry", "all").out
        refuse(refused, number)


@pytest.mark.parametrize(("policy", "code", "rejected"), [("truncate", 0, 0), ("reject", 3, 1)])
def test_what_was_only_cut_short_is_listed_and_no_rejection(
    cli: Cli, chain: Chain, policy: str, code: int, rejected: int
) -> None:
    long = {"id": "long", "title": "very long title " * 300, "text": "The text itself."}
    chain.write([*documents(range(3)), long, {"id": "odd", "title": "t", "text": "a </s> b"}])
    chain.config(embedding={"template": "{title}: {text}", "too_long": policy, "special_tokens": "remove"})
    ran = cli("run", chain.config_path, "--json")
    assert (ran.code, ran.json["rejected"], ran.json["documents"]) == (code, rejected, 5 - rejected)
    (line,) = cli("rejections", chain.config_path).out.splitlines()
    assert line.startswith(
        "cut short  truncated  corpus/corpus.parquet row 3" if rejected == 0 else "rejected  template"
    )


def test_an_export_writes_over_nothing_that_is_read(cli: Cli, tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    chain.write(documents(range(3))).run()
    assert cli("rejections", chain.config_path).out == "no rejections stand\n"
    corpus = chain.folder / "corpus" / "corpus.parquet"
    config = chain.config_path.rename(chain.folder / "config.jsonl")
    (chain.folder / "link.parquet").symlink_to(corpus)
    before = corpus.read_bytes(), config.read_bytes()
    for target in (corpus, chain.folder / "link.parquet", config, chain.folder / "store" / "new.csv"):
        ran = cli("rejections", config, "--export", target, "--json")
        assert (ran.code, ran.error["code"]) == (2, "usage") and target.name in ran.error["message"]
    assert (corpus.read_bytes(), config.read_bytes()) == before
    assert not (chain.folder / "store" / "new.csv").exists()
