"""Ids and arrays of ids, against hashlib and Python's own sets."""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfill import ids

# Few distinct bytes, so that equal ids, ids with trailing NULs and neighbours in order are common.
some_id = st.lists(st.sampled_from([0, 1, 0x20, 0xFF]), min_size=3, max_size=3).map(lambda b: bytes(b * 5 + b[:1]))
some_ids = st.lists(some_id | st.binary(min_size=16, max_size=16), max_size=40)


@given(some_ids)
def test_array_and_back_keeps_every_byte(values: list[bytes]) -> None:
    assert ids.tolist(ids.array(values)) == values


@given(some_ids)
def test_arrays_sort_as_bytes_do(values: list[bytes]) -> None:
    assert ids.tolist(np.sort(ids.array(values))) == sorted(values)


@given(some_ids, st.integers(0, 5), st.integers(1, 4))
def test_arrow_and_back_for_slices_and_chunks(values: list[bytes], skip: int, pieces: int) -> None:
    column = ids.to_arrow(ids.array(values))
    assert column.type == ids.ID_TYPE
    assert column.to_pylist() == values
    assert ids.tolist(ids.from_arrow(column.slice(skip))) == values[skip:]
    cuts = [values[at::pieces] for at in range(pieces)]
    chunked = pa.chunked_array([ids.to_arrow(ids.array(cut)) for cut in cuts], ids.ID_TYPE)
    assert ids.tolist(ids.from_arrow(chunked)) == [value for cut in cuts for value in cut]


@given(some_ids)
def test_to_arrow_takes_views_that_are_not_contiguous(values: list[bytes]) -> None:
    assert ids.to_arrow(ids.array(values)[::-2]).to_pylist() == values[::-2]


@given(some_ids, some_ids)
def test_find_says_where_and_whether(haystack: list[bytes], needles: list[bytes]) -> None:
    there = np.sort(ids.array(haystack))
    at, found = ids.find(there, ids.array(needles))
    assert found.tolist() == [needle in haystack for needle in needles]
    assert [ids.tolist(there)[place] for place in at[found]] == [needle for needle in needles if needle in haystack]


@given(some_ids)
def test_first_of_each_is_the_first(values: list[bytes]) -> None:
    mask = ids.first_of_each(ids.array(values)).tolist()
    assert mask == [value not in values[:at] for at, value in enumerate(values)]


@given(st.lists(some_ids, max_size=12))
def test_id_set_is_a_set(additions: list[list[bytes]]) -> None:
    ours, truth = ids.IdSet(), set[bytes]()
    for values in additions:
        expected = [value not in truth and value not in values[:at] for at, value in enumerate(values)]
        assert ours.add(ids.array(values)).tolist() == expected
        truth |= set(values)
        assert len(ours) == len(truth)
        assert ours.has(ids.array(values)).all()
    assert ids.tolist(ours.sorted()) == sorted(truth)
    probes = [value for values in additions for value in values] + [b"\x01" * 16, b"\0" * 16]
    assert ours.has(ids.array(probes)).tolist() == [probe in truth for probe in probes]


@given(some_ids, some_ids)
def test_id_set_goes_on_after_it_was_sorted(first: list[bytes], second: list[bytes]) -> None:
    ours = ids.IdSet(ids.array(first))
    before = ids.tolist(ours.sorted())
    ours.add(ids.array(second))
    assert before == sorted(set(first))
    assert ids.tolist(ours.sorted()) == sorted({*first, *second})


def test_id_set_keeps_few_runs_however_it_grows() -> None:
    ours = ids.IdSet()
    numbers = np.random.default_rng(1).permutation(4096)
    for part in np.array_split(numbers, 1024):
        ours.add(ids.array(ids.digest("t", int(number).to_bytes(4)) for number in part))
    assert len(ours) == 4096
    assert len(ours._runs) <= 8  # the logarithm to base 4 of 1024 additions, and some


def test_text_id_is_the_digest_of_its_bytes() -> None:
    assert ids.text_id("naïve 中") == ids.digest("text", "naïve 中".encode())
    assert ids.text_id("a") != ids.text_id("a ")


def test_equal_bytes_of_two_kinds_have_two_ids() -> None:
    assert ids.digest("shard", b"x") != ids.digest("text", b"x")


@given(st.lists(st.binary(max_size=4), min_size=2, max_size=4))
def test_parts_cannot_run_into_each_other(parts: list[bytes]) -> None:
    merged = [parts[0] + parts[1], *parts[2:]]
    assert ids.digest("k", *parts) != ids.digest("k", *merged)
    if parts[0]:
        shifted = [parts[0][:-1], parts[0][-1:] + parts[1], *parts[2:]]
        assert ids.digest("k", *parts) != ids.digest("k", *shifted)


def test_ids_are_what_earlier_versions_wrote() -> None:
    """Stores outlive versions: a change here is a change of every id in them."""
    assert ids.text_id("embedfill") == hashlib.blake2b(b"embedfill", digest_size=16, person=b"text").digest()
    assert (
        ids.digest_hex("space", b"a", b"bc")
        == hashlib.blake2b(
            b"\1" + b"\0" * 7 + b"a" + b"\2" + b"\0" * 7 + b"bc", digest_size=16, person=b"space"
        ).hexdigest()
    )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=3), json_values, max_size=4))
def test_canonical_does_not_know_the_order_of_keys(value: dict[str, object]) -> None:
    backwards = dict(reversed(value.items()))
    assert ids.canonical(value) == ids.canonical(backwards)


def test_canonical_refuses_a_surrogate_rather_than_guess() -> None:
    with pytest.raises(TypeError):
        ids.canonical({"a": "\ud800"})


def test_file_digest_is_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 300_000)
    (tmp_path / "b").write_bytes(b"x" * 300_000)
    (tmp_path / "c").write_bytes(b"x" * 299_999)
    assert ids.file_digest(tmp_path / "a") == ids.file_digest(tmp_path / "b") != ids.file_digest(tmp_path / "c")
    assert ids.file_digest(tmp_path / "a") == ids.digest_hex("file", b"x" * 300_000)
