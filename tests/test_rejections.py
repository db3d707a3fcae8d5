"""What was left out: rows of the corpus and refused texts, exported whole, and forgiven so that they go out again."""

import csv
from pathlib import Path

import orjson
import pyarrow.parquet as pq
import pytest

from embedfill import ids
from embedfill.errors import UsageError
from embedfill.project import open_project
from embedfill.records import Refusal
from embedfill.rejections import Rejections, Standing, export
from embedfill.status import standing
from embedfill.tracker.forgive import forgiven_keys
from embedfill.tracker.state import State
from tests.chain_fixtures import Chain, documents, sentence, settle

TEXT = ids.text_id("refused").hex()


def refuse(chain: Chain, numbers: list[int], code: str = "content_policy", times: int = 3, first: int = 0) -> list[str]:
    """The provider refuses the texts of these documents, each alone, that many times."""
    names = [ids.text_id(sentence(number)).hex() for number in numbers]
    for time in range(first, first + times):
        settle(chain, time, [Refusal(name, code, f"word {time}", 1) for name in names])
    return names


def listed(chain: Chain) -> list[tuple[str, str | None]]:
    return [(one.code, one.text_id or one.document_id) for one in Rejections(chain.config())]


def test_nothing_published_and_no_store_at_all(chain: Chain) -> None:
    with pytest.raises(UsageError, match="no store"):
        Rejections(chain.config())
    assert not (chain.folder / "store").exists()
    open_project(chain.config())
    assert list(Rejections(chain.config())) == []
    assert Rejections(chain.config()).retry(["all"]) == 0


def test_a_text_that_was_refused_often_enough_is_listed_with_the_providers_words(chain: Chain) -> None:
    chain.write([*documents(range(3)), {"id": "doc-0", "title": "t", "text": "again"}]).run()
    for number in range(3):
        settle(chain, number, [Refusal(TEXT, "content_policy", f"word {number}", 1)])
        assert (("content_policy", TEXT) in listed(chain)) == (number == 2)
        assert standing(chain.config()).texts_refused == (1 if number == 2 else 0)
    row, text = Rejections(chain.config())
    assert (row.code, row.document_id, row.file, row.row) == ("duplicate_id", "doc-0", "corpus/corpus.parquet", 3)
    assert (text.code, text.document_id, text.file, text.row) == ("content_policy", None, None, None)
    assert text.message.startswith("word ")
    assert list(Rejections(chain.config(batch={"max_attempts": 9}))) == [row]


def test_a_refused_text_names_the_document_and_file_that_it_stands_in(chain: Chain) -> None:
    chain.write(documents(range(3))).write(documents(range(3, 6)), "more.parquet").run()
    (first, second) = refuse(chain, [1, 4])
    found = {one.text_id: (one.document_id, one.file) for one in Rejections(chain.config())}
    assert found == {first: ("doc-1", "corpus/corpus.parquet"), second: ("doc-4", "corpus/more.parquet")}


def test_to_forgive_takes_just_those_from_the_list(chain: Chain) -> None:
    cases: list[tuple[list[str], list[str], list[int]]] = [
        (["all"], [], []),
        (["doc-1"], [], [2]),
        (["doc-1", "doc-2"], [], []),
        (["twin"], [], [1]),  # the first document is not the only one that holds a text
        ([ids.text_id(sentence(2)).hex()], [], [1]),
        ([], ["content_policy"], []),
        (["doc-1"], ["content_policy"], []),
    ]
    chain.write([*documents(range(4)), {**documents([2])[0], "id": "twin"}]).run()
    for number, (names, codes, left) in enumerate(cases):
        refuse(chain, [1, 2], first=10 * number)
        assert Rejections(chain.config()).retry(names, codes) == 2 - len(left)
        assert sorted(listed(chain)) == sorted(("content_policy", ids.text_id(sentence(n)).hex()) for n in left)
        Rejections(chain.config()).retry(["all"])


def test_what_is_not_refused_cannot_be_forgiven(chain: Chain) -> None:
    chain.write(documents(range(3))).run()
    refuse(chain, [1])
    for name in ("doc-0", "doc-9", "content", TEXT):
        for options in ([name], []), ([], [name]):
            with pytest.raises(UsageError, match=name):
                Rejections(chain.config()).retry(*options)
    assert len(listed(chain)) == 1


def test_a_forgiven_text_is_refused_anew_by_as_many_tries(chain: Chain) -> None:
    chain.write(documents(range(3))).run()
    (name,) = refuse(chain, [1])
    Rejections(chain.config()).retry(["all"])
    refuse(chain, [1], times=2, first=10)
    assert listed(chain) == []
    refuse(chain, [1], times=1, first=20)
    assert listed(chain) == [("content_policy", name)]
    assert Rejections(chain.config()).retry(["all"]) == 1
    assert listed(chain) == []


def test_to_forgive_twice_is_to_forgive_once(chain: Chain) -> None:
    """Two at once see the same and write the same object; one who saw less takes nothing back."""
    chain.write(documents(range(4))).run()
    refuse(chain, [1, 2])
    early, late = Rejections(chain.config()), Rejections(chain.config())
    assert early.retry(["all"]) == late.retry(["all"]) == 2
    project = open_project(chain.config())
    assert len(forgiven_keys(State(project.store, project.cache, project.space.id))) == 1
    assert Rejections(chain.config()).retry(["all"]) == 0
    assert late.retry(["doc-1"]) == 1
    assert listed(chain) == []


def test_the_next_run_sends_just_what_was_forgiven(chain: Chain) -> None:
    """Also where everything else is published as it should be."""
    chain.write(documents(range(3))).run()
    chain.write([*documents(range(3)), {"id": "doc-7", "title": "t", "text": sentence(7)}])
    refuse(chain, [7])
    summary = chain.run()
    assert (summary.rejected, summary.texts, summary.batches) == (1, 3, 0)
    assert chain.run().batches == 0
    Rejections(chain.config()).retry(["doc-7"])
    summary = chain.run()
    assert (summary.rejected, summary.texts, summary.batches, summary.embedded) == (0, 4, 1, 1)
    assert chain.run().batches == 0
    assert chain.lines_run()[1] == 1


def test_every_format_holds_every_rejection(chain: Chain, tmp_path: Path) -> None:
    odd = {"id": 'odd, "id"\n', "title": "t", "text": None}
    chain.write([*documents(range(3)), odd, {"id": None, "title": "t", "text": "x"}]).run()
    refuse(chain, [1])
    expected = list(Rejections(chain.config()))
    assert len(expected) == 3
    for ending in ("parquet", "jsonl", "csv"):
        assert export(Rejections(chain.config()), tmp_path / f"out.{ending}") == 3
    assert [Standing(**row) for row in pq.read_table(tmp_path / "out.parquet").to_pylist()] == expected
    lines = (tmp_path / "out.jsonl").read_bytes().split(b"\n")[:-1]
    assert [Standing(**orjson.loads(line)) for line in lines] == expected
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["code"], row["document_id"], row["row"]) for row in rows] == [
        (one.code, one.document_id or "", "" if one.row is None else str(one.row)) for one in expected
    ]


def test_many_are_exported_in_parts(tmp_path: Path) -> None:
    many = (Standing("code", f"message {n}", None, "file", n, None) for n in range(25_000))
    assert export(many, tmp_path / "many.parquet") == 25_000
    table = pq.read_table(tmp_path / "many.parquet")
    assert table.column("row").to_pylist() == list(range(25_000))


def test_an_export_is_whole_or_not_at_all(tmp_path: Path) -> None:
    def broken() -> object:
        yield Standing("code", "message", None, "file", 1, None)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(broken(), tmp_path / "out.csv")  # type: ignore[arg-type]
    assert list(tmp_path.glob("out*")) == []
    for path in (tmp_path / "out.xlsx", tmp_path / "no" / "such" / "out.csv"):
        with pytest.raises(UsageError, match="out"):
            export([], path)
