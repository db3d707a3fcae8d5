from pathlib import Path

import numpy as np
import pytest

from embedfill.errors import SearchIndexError
from embedfill.index.rerank import RerankFile, widen
from embedfill.index.source import BLOCK_ROWS


def test_widen_is_exact_for_every_finite_float16() -> None:
    every = np.arange(65_536, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)]
    assert len(finite) == 63_488
    assert widen(finite).tobytes() == finite.astype(np.float32).tobytes()


@pytest.mark.parametrize("mapped", [True, False])
def test_take_and_blocks(tmp_path: Path, mapped: bool) -> None:
    vectors = np.random.default_rng(1).standard_normal((BLOCK_ROWS + 10, 3)).astype("<f2")
    (tmp_path / "f16").write_bytes(vectors.tobytes())
    file = RerankFile(tmp_path / "f16", 3, mapped)
    rows = np.array([5, 0, BLOCK_ROWS + 9, 5, -1])
    assert (file.take(rows)[:4] == vectors[rows[:4]]).all()
    assert file.take(rows).shape == (5, 3)
    parts = list(file.blocks())
    assert [start for start, _ in parts] == [0, BLOCK_ROWS]
    assert (np.concatenate([part for _, part in parts]) == vectors).all()


def test_a_file_that_was_cut(tmp_path: Path) -> None:
    (tmp_path / "f16").write_bytes(bytes(31))
    with pytest.raises(SearchIndexError, match="f16: does not end with a whole row of 4 float16"):
        RerankFile(tmp_path / "f16", 4)
