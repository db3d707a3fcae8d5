import numpy as np
import pytest

from embedfill.errors import SearchIndexError
from embedfill.index.source import BLOCK_ROWS, VectorSource, blocks, normalise
from tests.index_fixtures import clustered, row_ids, source


@pytest.mark.parametrize("batch_rows", [1_000, BLOCK_ROWS, BLOCK_ROWS + 1, 100_000])
def test_blocks_do_not_depend_on_batches(batch_rows: int) -> None:
    vectors = clustered(20_001, 8)
    found = list(blocks(source(vectors, batch_rows)))
    assert [(block.start, len(block.ids)) for block in found] == [
        (0, BLOCK_ROWS), (BLOCK_ROWS, BLOCK_ROWS), (2 * BLOCK_ROWS, 20_001 - 2 * BLOCK_ROWS),
    ]  # fmt: skip
    assert np.concatenate([block.ids for block in found]).tobytes() == row_ids(20_001).tobytes()
    assert np.concatenate([block.vectors for block in found]).tobytes() == normalise(vectors).tobytes()


def test_blocks_skip_empty_batches() -> None:
    vectors = clustered(5, 4)
    names = row_ids(5)
    parts = [(names[:0], vectors[:0]), (names[:2], vectors[:2]), (names[2:2], vectors[2:2]), (names[2:], vectors[2:])]
    (block,) = blocks(VectorSource(lambda: iter(parts), 5, 4))
    assert block.vectors.shape == (5, 4)
    assert list(blocks(VectorSource(lambda: iter(parts[:1]), 0, 4))) == []


def test_normalise_keeps_zero_and_survives_extreme_lengths() -> None:
    rows = np.array([[3, 4], [0, 0], [3e30, 4e30], [3e-30, 4e-30], [-3e-44, 0]], np.float32)
    assert normalise(rows) == pytest.approx(np.array([[0.6, 0.8], [0, 0], [0.6, 0.8], [0.6, 0.8], [-1, 0]]), abs=1e-6)
    assert rows[2, 0] == np.float32(3e30), "the argument is left alone"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_vectors_that_are_not_finite_are_named(value: float) -> None:
    vectors = clustered(9_000, 4)
    vectors[8_500, 2] = value
    with pytest.raises(SearchIndexError, match="row 8500: its vector holds NaN or infinity"):
        list(blocks(source(vectors)))


def test_another_number_of_rows_than_announced() -> None:
    batches = source(clustered(10, 4)).batches
    for announced in (9, 11):
        with pytest.raises(SearchIndexError, match=f"{announced} vectors were announced and 10 came"):
            list(blocks(VectorSource(batches, announced, 4)))
    with pytest.raises(SearchIndexError, match=r"shape \(10, 4\), expected \(10, 5\)"):
        list(blocks(VectorSource(batches, 10, 5)))
