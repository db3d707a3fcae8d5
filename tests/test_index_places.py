from collections import defaultdict
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedfill import ids
from embedfill.errors import SearchIndexError
from embedfill.index import table
from embedfill.index.places import FILES, Places, WrittenPlaces, write_places
from tests.index_fixtures import documents_batch, places_batch, row_ids

PLACE = st.tuples(st.integers(0, 11), st.integers(0, 4), st.integers(0, 10**6))  # text, document, start
READ_ANY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def written(
    tmp_path: Path, rows: int, names: list[str], places: list[tuple[int, int, int]], step: int
) -> WrittenPlaces:
    """Places (text, document, start) in batches of `step`; texts 0 … rows - 1 have rows."""
    texts = ids.tolist(row_ids(12))
    table_rows = [(texts[t], d, n, s, s + 5, f"text {t} é") for n, (t, d, s) in enumerate(places)]
    batches = [places_batch(list(part)) for part in _batched(table_rows, step)]
    return write_places(tmp_path, ids.array(texts[:rows]), [documents_batch([n]) for n in names], batches)


def _batched(values: list, step: int) -> list[list]:
    return [values[at : at + step] for at in range(0, len(values), step)]


@READ_ANY
@given(st.lists(PLACE, max_size=60), st.integers(0, 12), st.permutations("cabde"), st.integers(1, 70))
def test_every_place_is_found_from_its_row_and_no_other(
    tmp_path: Path, places: list[tuple[int, int, int]], rows: int, names: list[str], step: int
) -> None:
    done = written(tmp_path, rows, names, places, step)
    expected = defaultdict(list)
    for number, (text, document, start) in enumerate(places):
        if text < rows:
            expected[text].append((names[document], number, start))
    found = Places(done.files)
    assert (done.documents, done.places, done.left_out) == (5, len(found), len(places) - len(found))
    assert found.rows == rows
    which, positions, ranks = found.of_rows(np.arange(rows))
    got = defaultdict(list)
    for row, position, rank in zip(which.tolist(), positions.tolist(), ranks.tolist()):
        (place,) = found.read([position])
        assert sorted(names)[rank] == place.document_id
        assert (place.text, place.end) == (f"text {row} é", place.start + 5)
        got[row].append((place.document_id, place.ordinal, place.start))
    assert got == {row: sorted(of) for row, of in expected.items()}


def test_rows_may_be_asked_in_any_order_and_twice(tmp_path: Path) -> None:
    found = Places(written(tmp_path, 4, ["b", "a"], [(0, 0, 1), (2, 1, 2), (0, 1, 3), (3, 0, 4)], 2).files)
    which, positions, ranks = found.of_rows(np.array([3, 1, 0, 0]))
    assert which.tolist() == [0, 2, 2, 3, 3]
    assert positions.tolist() == [3, 2, 0, 2, 0]
    assert ranks.tolist() == [1, 0, 1, 0, 1]


@pytest.mark.parametrize("step", [100, 2_048, 5_000, 9_000])
def test_any_position_of_many_batches(tmp_path: Path, step: int) -> None:
    count = 9_000
    names = [f"doc {number:05}" for number in range(count)]
    metadata = [orjson.dumps({"n": number, "title": "ü" * (number % 7)}).decode() for number in range(count)]
    (text,) = ids.tolist(row_ids(1))
    rows = [(text, number, number % 9, number, number + 1, f"passage {number}") for number in range(count)]
    parts = [places_batch(part) for part in _batched(rows, step)]
    documents = [documents_batch(names[at : at + step], metadata[at : at + step]) for at in range(0, count, step)]
    files = write_places(tmp_path, row_ids(1), documents, parts).files
    with pa.memory_map(str(files["places.arrow"])) as mapped:
        reader = pa.ipc.open_file(mapped)
        lengths = [reader.get_batch(number).num_rows for number in range(reader.num_record_batches)]
    assert lengths == [table.BATCH_ROWS] * 4 + [count - 4 * table.BATCH_ROWS]
    found = Places(files)
    for position in (0, 1, 2_047, 2_048, 4_095, 4_096, 8_191, 8_192, 8_999):
        (place,) = found.read([position])
        assert (place.document_id, place.text) == (names[position], f"passage {position}")
        assert place.metadata == {"n": position, "title": "ü" * (position % 7)}
    with pytest.raises(SearchIndexError, match=r"places\.arrow"):
        found.read([count])


def test_nothing_at_all(tmp_path: Path) -> None:
    found = Places(write_places(tmp_path, ids.array([]), [], []).files)
    assert (found.rows, len(found), found.documents) == (0, 0, 0)
    assert [len(part) for part in found.of_rows(np.zeros(0, np.int64))] == [0, 0, 0]


def test_a_place_of_no_document_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SearchIndexError, match="a place names document 1 of 1"):
        written(tmp_path, 1, ["a"], [(0, 0, 0), (0, 1, 0)], 10)


def test_metadata_that_is_null_or_no_json(tmp_path: Path) -> None:
    documents = pa.record_batch({"document_id": ["a", "b"], "metadata": pa.array([None, "{"], pa.string())})
    (text,) = ids.tolist(row_ids(1))
    places = places_batch([(text, 0, 0, 0, 1, "x"), (text, 1, 0, 0, 1, "x")])
    found = Places(write_places(tmp_path, row_ids(1), [documents], [places]).files)
    assert found.read([0])[0].metadata == {}
    with pytest.raises(SearchIndexError, match=r"documents\.arrow: the metadata of document 'b' is not JSON"):
        found.read([1])


@pytest.mark.parametrize("name", FILES)
def test_damaged_files_are_named(tmp_path: Path, name: str) -> None:
    files = written(tmp_path, 12, ["a", "b"], [(n % 12, n % 2, n) for n in range(50)], 50).files
    whole = files[name].read_bytes()
    for size in (0, 5, len(whole) // 2, len(whole) - 1):
        files[name].write_bytes(whole[:size])
        with pytest.raises(SearchIndexError, match=name):
            Places(files)
    files[name].unlink()
    with pytest.raises(SearchIndexError, match=f"{name}: the file is missing"):
        Places(files)


def test_files_of_two_indexes_do_not_mix(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one = written(tmp_path / "one", 3, ["a"], [(0, 0, 0)], 1).files
    two = written(tmp_path / "two", 3, ["a"], [(0, 0, 0), (1, 0, 0)], 1).files
    with pytest.raises(SearchIndexError, match="does not fit places"):
        Places({**one, "places.arrow": two["places.arrow"]})
