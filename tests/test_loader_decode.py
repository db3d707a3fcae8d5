"""One response's `data` to vectors: any order, any mixture of encodings, and nothing wrong taken for a vector."""

import base64
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfill.loader.decode import BadDataError, prompt_tokens, vectors_of

DIMENSIONS = 3


def b64(values: list[float]) -> str:
    return base64.b64encode(np.array(values, "<f4").tobytes()).decode()


def item(index: object, embedding: object) -> dict[str, Any]:
    return {"object": "embedding", "index": index, "embedding": embedding}


def body(*embeddings: object) -> dict[str, Any]:
    return {"data": [item(index, embedding) for index, embedding in enumerate(embeddings)]}


numbers = st.floats(-1e6, 1e6, width=32).filter(lambda value: value == 0 or abs(value) > 1e-30)
rows = st.lists(numbers, min_size=DIMENSIONS, max_size=DIMENSIONS).filter(any)


@given(st.lists(st.tuples(rows, st.booleans()), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_any_order_and_either_encoding_item_by_item(given_rows: list[tuple[list[float], bool]], chance: Any) -> None:
    data = [item(index, b64(row) if packed else row) for index, (row, packed) in enumerate(given_rows)]
    chance.shuffle(data)
    decoded = vectors_of({"data": data}, len(given_rows), DIMENSIONS)
    assert decoded.good.all() and not decoded.other_length.any()
    assert decoded.vectors.dtype == np.float32
    assert (decoded.vectors == np.array([row for row, _ in given_rows], np.float32)).all()


GOOD = [1.0, 2.0, 3.0]
UNUSABLE: list[object] = [
    None, [float("nan"), 1.0, 1.0], [1.0, float("inf"), 1.0], [1.0, 1.0, float("-inf")], [0.0, 0.0, 0.0], [0, -0.0, 0],
    [1e300, 1.0, 1.0], [None, 1.0, 1.0], ["1.0", "2.0", "3.0"], [True, False, True], [[1.0], [2.0], [3.0]],
    [[1.0, 2.0, 3.0]] * 3, [{}, 1.0, 1.0], [[1.0], 2.0, 3.0], {"0": 1.0}, 5, True, "", [], "not base64!", "é", "AAAA=",
    b64([float("nan"), 1, 1]), b64([1, 1, float("inf")]), b64([0, 0, 0]), "AAAAAAA=",
]  # fmt: skip


@pytest.mark.parametrize("value", UNUSABLE, ids=repr)
def test_what_is_no_vector_leaves_its_neighbours_alone(value: object) -> None:
    decoded = vectors_of(body(GOOD, value, GOOD), 3, DIMENSIONS)
    assert decoded.good.tolist() == [True, False, True]
    assert not decoded.other_length.any()
    assert decoded.vectors[[0, 2]].tolist() == [GOOD, GOOD]


@pytest.mark.parametrize("value", [[1.0, 2.0], [1.0] * 4, b64([1.0]), b64([1.0] * 12), [1.0]], ids=repr)
def test_another_length_is_told_apart_for_it_is_not_the_texts_fault(value: object) -> None:
    decoded = vectors_of(body(GOOD, value), 2, DIMENSIONS)
    assert (decoded.good.tolist(), decoded.other_length.tolist()) == ([True, False], [False, True])


def test_nan_in_the_first_place_and_elsewhere_are_both_seen() -> None:
    nan = float("nan")
    decoded = vectors_of(body([nan, 1, 1], [1, nan, 1], [1, 1, nan], [1, 1, 1]), 4, DIMENSIONS)
    assert decoded.good.tolist() == [False, False, False, True]


def test_one_dimension_and_whole_numbers_are_vectors_too() -> None:
    assert vectors_of(body([5], [-2.5]), 2, 1).vectors.tolist() == [[5.0], [-2.5]]
    assert not vectors_of(body([[5]], [[1, 2]]), 2, 1).good.any()


def test_a_tiny_value_is_not_zero() -> None:
    assert vectors_of(body(b64([1e-45, 0, 0])), 1, DIMENSIONS).good.all()


@pytest.mark.parametrize(
    "data",
    [
        None, "x", 5, {}, {"0": item(0, GOOD)}, [], [item(0, GOOD)], [item(n, GOOD) for n in range(3)],
    ],
    ids=repr,
)  # fmt: skip
def test_another_number_of_embeddings_is_not_guessed_at(data: object) -> None:
    with pytest.raises(BadDataError) as caught:
        vectors_of({"data": data}, 2, DIMENSIONS)
    assert caught.value.kind == "wrong_count"


def test_no_data_at_all() -> None:
    with pytest.raises(BadDataError, match="no embeddings for 2 inputs"):
        vectors_of({}, 2, DIMENSIONS)


@pytest.mark.parametrize("index", [0, 2, -1, 1.0, "1", None, True, [1], 10**30], ids=repr)
def test_a_wrong_index_set_spoils_the_response(index: object) -> None:
    with pytest.raises(BadDataError) as caught:
        vectors_of({"data": [item(0, GOOD), item(index, GOOD)]}, 2, DIMENSIONS)
    assert caught.value.kind == "wrong_index"


@pytest.mark.parametrize("odd", [None, "x", 5, [], GOOD, {}], ids=repr)
def test_an_item_that_is_no_embedding_object_spoils_the_response(odd: object) -> None:
    with pytest.raises(BadDataError):
        vectors_of({"data": [item(0, GOOD), odd]}, 2, DIMENSIONS)


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 8}, 8), ({"prompt_tokens": 0}, 0), ({"prompt_tokens": -3}, 0), ({"prompt_tokens": 8.0}, 0),
        ({"prompt_tokens": True}, 0), ({"prompt_tokens": "8"}, 0), ({}, 0), (None, 0), ([], 0), ("x", 0),
    ],
)  # fmt: skip
def test_prompt_tokens_count_where_they_make_sense(usage: object, tokens: int) -> None:
    assert prompt_tokens({"usage": usage}) == tokens
    assert prompt_tokens({}) == 0
