"""What results may overwrite: results of their own kind, and nothing else."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedfill.errors import UsageError
from embedfill.jobs.output import check_output


def test_earlier_results_and_new_names_may_be_written(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "before.parquet")
    for name in ("before.parquet", "new.parquet"):
        check_output(tmp_path / name, [tmp_path / "in.jsonl"], ["a"])


@pytest.mark.parametrize("name", ["in.jsonl", "sub/../in.jsonl", "link", "hard"])
def test_an_input_by_any_name_is_not_overwritten(tmp_path: Path, name: str) -> None:
    given = tmp_path / "in.jsonl"
    given.write_text("")
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to(given)
    (tmp_path / "hard").hardlink_to(given)
    with pytest.raises(UsageError, match="overwrite an input"):
        check_output(tmp_path / name, [given], ["a"])


def test_a_file_of_another_kind_and_a_missing_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    pq.write_table(pa.table({"b": [1]}), tmp_path / "table.parquet")
    for name in ("notes.txt", "table.parquet"):
        with pytest.raises(UsageError, match=f"{name}: there is a file already"):
            check_output(tmp_path / name, [], ["a"])
    for out in (tmp_path, tmp_path / "no" / "out.parquet"):
        with pytest.raises(UsageError, match="no such folder"):
            check_output(out, [], ["a"])
