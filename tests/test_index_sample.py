import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from embedfill import ids
from embedfill.index import plan
from embedfill.index.sample import MEASURE_QUERIES, POINTS_PER_LIST, TUNE_QUERIES, Sampler, place
from embedfill.index.source import blocks
from tests.index_fixtures import clustered, row_ids, source


def _sampled(rows: int, dimensions: int = 4) -> Sampler:
    vectors = clustered(rows, dimensions)
    sampler = Sampler(plan.choose(rows, dimensions, 10**9))
    for block in blocks(source(vectors)):
        sampler.take(block)
    return sampler


def test_samples_are_of_the_right_size_and_apart() -> None:
    sampler = _sampled(60_000)
    lists = plan.choose(60_000, 4, 10**9).lists
    assert abs(len(sampler.measuring) - MEASURE_QUERIES) < 150
    assert abs(len(sampler.tuning) - TUNE_QUERIES) < 120
    assert abs(len(sampler.training) - POINTS_PER_LIST * lists) < 1_000
    assert not np.intersect1d(sampler.measuring.rows, sampler.tuning.rows).size
    asked = {row.tobytes() for row in np.concatenate([sampler.measuring.vectors, sampler.tuning.vectors])}
    assert not asked & {row.tobytes() for row in sampler.training}


def test_small_sets_ask_with_all_rows() -> None:
    assert _sampled(700).measuring.rows.tolist() == list(range(700))
    assert len(_sampled(700).tuning) == len(_sampled(700).training) == 0
    assert len(Sampler(plan.choose(0, 4, 1)).measuring) == 0


def test_zero_vectors_do_not_ask() -> None:
    vectors = clustered(50, 4)
    vectors[[3, 40]] = 0
    sampler = Sampler(plan.choose(50, 4, 1))
    for block in blocks(source(vectors)):
        sampler.take(block)
    assert sampler.measuring.rows.tolist() == [row for row in range(50) if row not in (3, 40)]


def test_the_draw_does_not_depend_on_order() -> None:
    names = row_ids(1_000)
    assert place(names[::-1]).tolist() == place(names)[::-1].tolist()


def test_places_are_evenly_spread_even_for_counted_ids() -> None:
    counted = place(ids.array(number.to_bytes(16, "big") for number in range(20_000)))
    share, _ = np.histogram(counted, bins=10, range=(0, 1))
    assert share.min() > 1_800
    assert share.max() < 2_200


@given(st.binary(min_size=16, max_size=16))
def test_place_is_below_one(name: bytes) -> None:
    assert 0 <= place(ids.array([name]))[0] < 1
