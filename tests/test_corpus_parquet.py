"""Documents of one Parquet file: all of them, whatever its row groups, and a clear word on what cannot be read."""

import gc
import random
import string
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedfill.config import Config
from embedfill.corpus.parquet import Rows, read_part
from embedfill.corpus.parts import Part, list_parts
from embedfill.corpus.spec import CorpusSpec
from embedfill.errors import CorpusError
from embedfill.records import Document, Rejection, Source

TEXT = CorpusSpec("id", ("text",))


def part_of(path: Path) -> Part:
    return list_parts(Config(store="s", corpus={"paths": [path.name]}, base=path.parent))[0]


def write(folder: Path, columns: dict[str, Any], **options: Any) -> Part:
    path = folder / "a.parquet"
    pq.write_table(pa.table(columns), path, **options)
    return part_of(path)


def read(part: Part, spec: CorpusSpec = TEXT, batch_rows: int = 2048) -> Rows:
    whole = Rows([], [], 0)
    for rows in read_part(part, spec, batch_rows):
        assert rows.rows == len(rows.documents) + len(rows.rejections) <= batch_rows
        whole = Rows(whole.documents + rows.documents, whole.rejections + rows.rejections, whole.rows + rows.rows)
    return whole


def test_reads_documents_with_metadata_fields_and_places(tmp_path: Path) -> None:
    part = write(
        tmp_path,
        {"id": [5, 6], "text": ["one", "two"], "title": ["T", None], "n": [1.5, 2.0], "unused": [[1], [2]]},
    )
    rows = read(part, CorpusSpec("id", ("text",), ("title", "n"), ("n", "title")))
    assert rows.documents == [
        Document("5", "one", {"title": "T", "n": 1.5}, {"n": "1.5", "title": "T"}, Source("a.parquet", 0)),
        Document("6", "two", {"title": None, "n": 2.0}, {"n": "2.0", "title": ""}, Source("a.parquet", 1)),
    ]
    assert rows.rejections == []


def test_text_and_id_may_be_carried_as_metadata(tmp_path: Path) -> None:
    part = write(tmp_path, {"id": [5], "text": ["one"]})
    document = read(part, CorpusSpec("id", ("text",), ("id", "text"), ("id",))).documents[0]
    assert document.metadata == {"id": 5, "text": "one"}
    assert document.fields == {"id": "5"}


def test_text_is_left_as_it_is(tmp_path: Path) -> None:
    texts = ["\ufeff a\0b\r\n ", "e\u0301", "\U0001f600", "\u2028x", "[SEP] <|endoftext|>"]
    part = write(tmp_path, {"id": range(5), "text": texts})
    assert [document.text for document in read(part).documents] == texts


def test_several_text_columns_are_joined_where_they_are_not_blank(tmp_path: Path) -> None:
    columns = {
        "id": range(5),
        "head": ["H", "H", None, None, " "],
        "body": ["B ", None, "B", None, "\n"],
        "tail": ["T", " ", "", None, None],
    }
    rows = read(write(tmp_path, columns), CorpusSpec("id", ("head", "body", "tail")))
    assert [(document.id, document.text) for document in rows.documents] == [
        ("0", "H\n\nB \n\nT"),
        ("1", "H"),
        ("2", "B"),
    ]
    assert [(found.code, found.document_id) for found in rows.rejections] == [("null_text", "3"), ("empty_text", "4")]


def test_every_row_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    ids = ["a", None, "", "d", "e", "f", None, "h"]
    texts = ["one", "two", "three", None, "", " \n\t\u3000", None, "eight"]
    rows = read(write(tmp_path, {"id": ids, "text": texts}), batch_rows=3)
    assert [document.id for document in rows.documents] == ["a", "h"]
    assert [document.source.row for document in rows.documents] == [0, 7]
    assert rows.rejections == [
        Rejection("null_id", "the id (column 'id') is null", None, Source("a.parquet", 1)),
        Rejection("null_id", "the id (column 'id') is empty", None, Source("a.parquet", 2)),
        Rejection("null_text", "the text (column 'text') is null", "d", Source("a.parquet", 3)),
        Rejection("empty_text", "the text (column 'text') is empty or only white space", "e", Source("a.parquet", 4)),
        Rejection("empty_text", "the text (column 'text') is empty or only white space", "f", Source("a.parquet", 5)),
        Rejection("null_id", "the id (column 'id') is null", None, Source("a.parquet", 6)),
    ]


@pytest.mark.parametrize("bad", ["id", "text", "title"])
def test_a_row_that_is_not_utf8_is_lost_alone(tmp_path: Path, bad: str) -> None:
    columns = {name: pa.array([f"{name}{row}" for row in range(4)]) for name in ("id", "text", "title")}
    columns[bad] = pa.array([b"x0", b"x1", b"\xff\xfe", b"x3"]).view(pa.string())
    rows = read(write(tmp_path, columns), CorpusSpec("id", ("text",), ("title",)))
    assert [document.source.row for document in rows.documents] == [0, 1, 3]
    document_id = None if bad == "id" else "id2"
    message = f"column {bad!r} holds bytes that are not UTF-8"
    assert rows.rejections == [Rejection("invalid_utf8", message, document_id, Source("a.parquet", 2))]


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_all_kinds_of_strings_are_read_alike(tmp_path: Path, kind: pa.DataType) -> None:
    values = [f"v{row % 3}" for row in range(100)]
    column = pa.array(values).dictionary_encode() if pa.types.is_dictionary(kind) else pa.array(values, kind)
    part = write(tmp_path, {"id": column, "text": column, "title": column}, row_group_size=30)
    rows = read(part, CorpusSpec("id", ("text",), ("title",)), batch_rows=7)
    assert [(document.id, document.text, document.metadata["title"]) for document in rows.documents] == list(
        zip(values, values, values)
    )


cells = st.one_of(st.none(), st.text(max_size=5), st.sampled_from(["", " ", "\0", "日本語", "x" * 3000]))


@settings(max_examples=60)
@given(
    rows=st.lists(st.tuples(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), cells, cells), max_size=40),
    group=st.integers(1, 50),
    batch=st.integers(1, 50),
    page=st.sampled_from([16, 1 << 20]),
    dictionary=st.booleans(),
)
def test_the_same_documents_for_any_row_group_and_batch(
    tmp_path: Path, rows: list[tuple[Any, Any, Any]], group: int, batch: int, page: int, dictionary: bool
) -> None:
    ids, texts, titles = (list(column) for column in zip(*rows)) if rows else ([], [], [])
    columns = {
        "id": pa.array(ids, pa.int64()),
        "text": pa.array(texts, pa.string()),
        "t": pa.array(titles, pa.string()),
    }
    part = write(tmp_path, columns, row_group_size=group, data_page_size=page, use_dictionary=dictionary)
    found = read(part, CorpusSpec("id", ("text", "t"), ("t",)), batch)
    assert found.rows == len(rows)
    expected = {}
    for row, (key, text, title) in enumerate(rows):
        joined = "\n\n".join(value for value in (text, title) if value and value.strip())
        if key is not None and joined:
            expected[row] = (str(key), joined, title)
    documents = [(item.source.row, (item.id, item.text, item.metadata["t"])) for item in found.documents]
    assert documents == list(expected.items())
    assert [item.source.row for item in found.rejections if item.source] == [
        r for r in range(len(rows)) if r not in expected
    ]


@pytest.mark.parametrize(
    ("columns", "spec", "words"),
    [
        ({"id": [1], "body": ["x"]}, TEXT, "has no column 'text' (it has: id, body)"),
        ({"key": [1], "text": ["x"]}, TEXT, "has no column 'id' (it has: key, text)"),
        ({"id": [1], "text": ["x"]}, CorpusSpec("id", ("text",), ("url",)), "has no column 'url'"),
        ({"id": [1], "text": ["x"]}, CorpusSpec("id", ("text",), (), ("url",)), "has no column 'url'"),
        ({"id": [1.5], "text": ["x"]}, TEXT, "column 'id' is double"),
        ({"id": [b"x"], "text": ["x"]}, TEXT, "column 'id' is binary"),
        ({"id": [1], "text": [["x"]]}, TEXT, "column 'text' is list<"),
        ({"id": [1], "text": [{"a": "x"}]}, TEXT, "column 'text' is struct<"),
        ({"id": [1], "text": [3]}, TEXT, "column 'text' is int64"),
        ({"id": [1], "text": ["x"], "tags": [["x"]]}, CorpusSpec("id", ("text",), ("tags",)), "not a plain type"),
    ],
)
def test_columns_that_cannot_be_read_are_named(
    tmp_path: Path, columns: dict[str, Any], spec: CorpusSpec, words: str
) -> None:
    with pytest.raises(CorpusError) as raised:
        read(write(tmp_path, columns), spec)
    assert str(raised.value).startswith("a.parquet: ")
    assert words in str(raised.value)
    assert raised.value.hint


def test_columns_are_checked_where_there_are_no_rows(tmp_path: Path) -> None:
    assert read(write(tmp_path, {"id": pa.array([], pa.int64()), "text": pa.array([], pa.string())})).rows == 0
    with pytest.raises(CorpusError, match="has no column 'text'"):
        read(write(tmp_path, {"id": pa.array([], pa.int64())}))


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = pa.table([pa.array([1]), pa.array(["x"]), pa.array(["y"])], names=["id", "text", "text"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(CorpusError, match="2 columns called 'text'"):
        read(part_of(tmp_path / "a.parquet"))


def test_a_damaged_column_matters_only_where_it_is_read(tmp_path: Path) -> None:
    generator = random.Random(3)
    noise = ["".join(generator.choices(string.printable, k=200)) for _ in range(50)]
    part = write(
        tmp_path, {"id": range(50), "text": ["text"] * 50, "blob": noise}, use_dictionary=False, compression="snappy"
    )
    chunk = pq.ParquetFile(part.path).metadata.row_group(0).column(2)
    data = bytearray(part.path.read_bytes())
    data[chunk.data_page_offset : chunk.data_page_offset + chunk.total_compressed_size] = (
        b"\xff" * chunk.total_compressed_size
    )
    part.path.write_bytes(data)
    assert len(read(part_of(part.path)).documents) == 50
    with pytest.raises(CorpusError, match=r"a\.parquet: is damaged"):
        read(part_of(part.path), CorpusSpec("id", ("text",), ("blob",)))


def test_every_cut_of_a_file_is_named(tmp_path: Path) -> None:
    part = write(tmp_path, {"id": range(100), "text": [f"text {row}" for row in range(100)]}, row_group_size=20)
    whole = part.path.read_bytes()
    for length in {0, 4, 12, len(whole) - 1, len(whole) - 8, *range(0, len(whole), 97)}:
        part.path.write_bytes(whole[:length])
        with pytest.raises(CorpusError, match=r"^a\.parquet: (is empty|has only|is cut short)"):
            read(part_of(part.path))


def test_bytes_that_changed_on_the_way_never_give_another_error(tmp_path: Path) -> None:
    part = write(tmp_path, {"id": range(300), "text": [f"text {row % 9}" for row in range(300)]}, row_group_size=100)
    whole = part.path.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    generator, refused = random.Random(11), 0
    for _ in range(150):
        data = bytearray(whole)
        data[generator.randrange(4, footer)] ^= 1 << generator.randrange(8)
        part.path.write_bytes(data)
        try:
            assert read(part_of(part.path)).rows == 300
        except CorpusError:
            refused += 1
    assert refused > 10


def test_page_checksums_are_honoured(tmp_path: Path) -> None:
    options: dict[str, Any] = {"compression": "none", "use_dictionary": False, "write_page_checksum": True}
    part = write(tmp_path, {"id": range(100), "text": ["a text that stands in the page as it is"] * 100}, **options)
    part.path.write_bytes(part.path.read_bytes().replace(b"stands in", b"stamps in", 3))
    with pytest.raises(CorpusError, match="is damaged"):
        read(part_of(part.path))


def test_a_file_that_changes_while_it_is_read_is_named(tmp_path: Path) -> None:
    part = write(tmp_path, {"id": range(10), "text": ["x"] * 10})
    rows = read_part(part, TEXT, batch_rows=5)
    next(rows)
    with part.path.open("ab") as file:
        file.write(b"more")
    with pytest.raises(CorpusError, match="changed while the corpus was read"):
        list(rows)


def test_reading_can_be_given_up_at_any_batch(tmp_path: Path) -> None:
    part = write(tmp_path, {"id": range(10), "text": ["x"] * 10})
    rows = read_part(part, TEXT, batch_rows=2)
    assert next(rows).rows == 2
    rows.close()
    assert gc.isenabled()


def test_long_documents_come_in_small_batches(tmp_path: Path) -> None:
    texts = [random.Random(row).randbytes(1_000_000).hex() for row in range(40)]
    part = write(tmp_path, {"id": range(40), "text": texts}, use_dictionary=False)
    assert [len(rows.documents) for rows in read_part(part, TEXT)] == [16, 16, 8]


_PEAK = """
import sys
from pathlib import Path
import pyarrow as pa
from embedfill.config import Config
from embedfill.corpus.parquet import read_part
from embedfill.corpus.parts import list_parts
from embedfill.corpus.spec import CorpusSpec
path = Path(sys.argv[1])
part = list_parts(Config(store="s", corpus={"paths": [path.name]}, base=path.parent))[0]
assert sum(rows.rows for rows in read_part(part, CorpusSpec("id", ("text",)))) == 60_000
print(pa.default_memory_pool().max_memory())
"""


def test_memory_does_not_grow_with_the_row_group(tmp_path: Path) -> None:
    generator = random.Random(5)
    texts = [generator.randbytes(500).hex() for _ in range(60_000)]  # 60 MB, 30 MB compressed, in one row group
    part = write(tmp_path, {"id": range(60_000), "text": texts}, use_dictionary=False, row_group_size=60_000)
    assert pq.ParquetFile(part.path).metadata.num_row_groups == 1
    done = subprocess.run([sys.executable, "-c", _PEAK, str(part.path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 16_000_000
