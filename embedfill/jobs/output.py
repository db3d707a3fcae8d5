"""Whether a file may take the place of what stands under its name: never of an input, nor of what is not ours."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from embedfill.errors import UsageError


def check_output(out: Path, inputs: Iterable[Path], columns: Sequence[str]) -> None:
    """Raises UsageError where there is no folder for `out`, where it is one of `inputs` by any name, or where another
    file stands there than a Parquet file of these columns."""
    if not out.absolute().parent.is_dir() or out.is_dir():
        raise UsageError(f"{out}: no such folder to write into", "make it, or give another --out")
    for path in inputs:
        if path.resolve() == out.resolve() or (out.exists() and path.exists() and out.samefile(path)):
            raise UsageError(f"{out}: the results would overwrite an input", "give another --out")
    if out.exists() and not _is_ours(out, columns):
        raise UsageError(
            f"{out}: there is a file already, and it is none of this command's", "give another --out, or move it away"
        )


def _is_ours(path: Path, columns: Sequence[str]) -> bool:
    try:
        return path.stat().st_size == 0 or list(pq.read_schema(path).names) == list(columns)
    except (OSError, pa.ArrowException):
        return False
