"""The corpus's files: which are found, in which order, and how a later version of one is told apart."""

import os
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedfill.config import Config
from embedfill.corpus.parts import Part, fingerprint, list_parts, trusted
from embedfill.errors import CorpusError

FILES = ["part-1.parquet", "part-2.parquet", "part-10.parquet", "deep/er/a.parquet", "deep/b.parquet", "notes.txt"]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / "corpus" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "corpus" / name).write_bytes(b"")
    return tmp_path / "corpus"


def parts_of(base: Path, *paths: str) -> list[Part]:
    return list_parts(Config(store="s", corpus={"paths": list(paths)}, base=base))


def names_of(base: Path, *paths: str) -> list[str]:
    return [part.name for part in parts_of(base, *paths)]


def write(path: Path, rows: int = 3) -> Path:
    pq.write_table(pa.table({"id": range(rows), "text": ["some text"] * rows}), path)
    return path


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["*.parquet"], ["part-1.parquet", "part-2.parquet", "part-10.parquet"]),
        (["."], ["deep/b.parquet", "deep/er/a.parquet", "part-1.parquet", "part-2.parquet", "part-10.parquet"]),
        (["**/*.parquet"], ["deep/b.parquet", "deep/er/a.parquet", *FILES[:3]]),
        (["deep"], ["deep/b.parquet", "deep/er/a.parquet"]),
        (["deep/"], ["deep/b.parquet", "deep/er/a.parquet"]),
        (["d*"], ["deep/b.parquet", "deep/er/a.parquet"]),
        (["notes.txt"], ["notes.txt"]),
        (["part-[12].parquet"], ["part-1.parquet", "part-2.parquet"]),
        (["part-10.parquet", "part-1*.parquet", "./part-1.parquet"], ["part-1.parquet", "part-10.parquet"]),
    ],
)
def test_finds_files_globs_and_directories_once_each(base: Path, paths: list[str], names: list[str]) -> None:
    assert names_of(base, *paths) == names


def test_order_does_not_depend_on_the_order_of_the_paths(base: Path) -> None:
    assert names_of(base, "part-10.parquet", "deep", "part-2.parquet") == [
        "deep/b.parquet",
        "deep/er/a.parquet",
        "part-2.parquet",
        "part-10.parquet",
    ]


def test_names_that_differ_in_zeros_only_have_an_order(base: Path) -> None:
    names = ["n1.parquet", "n01.parquet", "n001.parquet", "n1a.parquet"]
    for name in names:
        (base / name).write_bytes(b"")
    assert names_of(base, *names) == names_of(base, *reversed(names)) == sorted(names)


def test_files_outside_the_base_go_by_their_whole_path(base: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.parquet"
    outside.write_bytes(b"")
    assert names_of(base, "../outside.parquet", str(base / "part-1.parquet")) == [
        outside.as_posix(),
        "part-1.parquet",
    ]


def test_one_file_under_two_names_is_read_once(base: Path) -> None:
    (base / "also.parquet").symlink_to("part-1.parquet")
    assert names_of(base, "*.parquet") == ["also.parquet", "part-2.parquet", "part-10.parquet"]


def test_links_to_directories_are_followed(base: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x.parquet").write_bytes(b"")
    (base / "link").symlink_to(tmp_path / "elsewhere")
    assert "link/x.parquet" in names_of(base, ".")


def test_a_folder_named_like_a_pattern_is_no_pattern(tmp_path: Path) -> None:
    base = tmp_path / "a[1]*"
    base.mkdir()
    (base / "x[2].parquet").write_bytes(b"")
    assert names_of(base, "x[2].parquet") == ["x[2].parquet"]
    assert names_of(base, "*.parquet") == ["x[2].parquet"]
    assert names_of(base, ".") == ["x[2].parquet"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("gone.parquet", "no such file"),
        ("gone/*.parquet", "no file matches"),
        ("empty", "no .parquet file"),
    ],
)
def test_what_matches_nothing_is_named(base: Path, path: str, words: str) -> None:
    (base / "empty").mkdir()
    with pytest.raises(CorpusError, match=words) as raised:
        parts_of(base, "*.parquet", path)
    assert raised.value.file == path
    assert str(base) in raised.value.hint


def test_what_is_no_file_is_named(base: Path) -> None:
    os.mkfifo(base / "pipe.parquet")
    with pytest.raises(CorpusError, match=r"pipe\.parquet: is not a regular file"):
        parts_of(base, "pipe.parquet")


def test_a_fingerprint_is_json_and_tells_versions_apart(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet")
    first = fingerprint(parts_of(tmp_path, "a.parquet")[0])
    assert orjson.loads(orjson.dumps(first)) == first == fingerprint(parts_of(tmp_path, "a.parquet")[0])
    write(path, rows=4)
    assert fingerprint(parts_of(tmp_path, "a.parquet")[0]) != first


def test_a_fingerprint_sees_another_footer_under_the_same_stat(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    prints = []
    for low in (1, 2):
        pq.write_table(pa.table({"id": [low, 3]}), path)
        os.utime(path, ns=(10**18, 10**18))
        prints.append(fingerprint(parts_of(tmp_path, "a.parquet")[0]))
    assert prints[0]["size"] == prints[1]["size"]
    assert prints[0]["footer"] != prints[1]["footer"]


def test_a_file_written_just_before_the_scan_is_not_trusted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet")
    os.utime(path, ns=(1_000_000_000_000, 1_000_000_000_000))
    seen = fingerprint(parts_of(tmp_path, "a.parquet")[0])
    assert trusted(seen, scanned_at=1002.5)
    for scanned_at in (999.0, 1000.0, 1001.9, 1002.0):  # also where its clock is ahead of ours
        assert not trusted(seen, scanned_at)


def test_every_cut_of_a_file_is_named(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.parquet").read_bytes()
    for length in (0, 1, 3, 4, 8, 11, 12, 13, 100, len(whole) // 2, len(whole) - 9, len(whole) - 4, len(whole) - 1):
        (tmp_path / "cut.parquet").write_bytes(whole[:length])
        with pytest.raises(CorpusError, match=r"^cut\.parquet: (is empty|has only|is cut short)") as raised:
            fingerprint(parts_of(tmp_path, "cut.parquet")[0])
        assert raised.value.hint


def test_other_formats_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("id,text\n1,some text\n")
    with pytest.raises(CorpusError, match="is not a Parquet file"):
        fingerprint(parts_of(tmp_path, "a.parquet")[0])
    (tmp_path / "b.parquet").write_bytes(b"PARE" + bytes(20) + b"PARE")
    with pytest.raises(CorpusError, match="encrypted"):
        fingerprint(parts_of(tmp_path, "b.parquet")[0])


def test_a_file_that_changed_or_went_since_it_was_listed_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet")
    part = parts_of(tmp_path, "a.parquet")[0]
    write(path, rows=50)
    with pytest.raises(CorpusError, match="changed while the corpus was read"):
        fingerprint(part)
    path.unlink()
    with pytest.raises(CorpusError, match=r"a\.parquet: cannot be read \(No such file"):
        fingerprint(part)
