"""An ended batch's files to a pack: whatever a provider writes into them, no wrong vector and no exception."""

import base64
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedfill import ids
from embedfill.loader.load import Loaded, Requests, load_batch
from embedfill.loader.packs import read_pack

DIMENSIONS = 3
SHARD = "0123456789abcdef0123456789abcdef"
SIZES = [1, 3, 2, 1, 4]  # inputs of each request
Row = list[float]


def text_id(request: int, index: int) -> bytes:
    return ids.text_id(f"{request}.{index}")


def requests() -> Requests:
    text_ids = ids.array(text_id(request, index) for request, size in enumerate(SIZES) for index in range(size))
    return Requests(SHARD, text_ids, np.concatenate([[0], np.cumsum(SIZES)]).tolist())


def row(request: int, index: int, version: int = 0) -> Row:
    return [float(request + 1), float(index + 1), float(version + 1)]


def b64(values: Row) -> str:
    return base64.b64encode(np.array(values, "<f4").tobytes()).decode()


def data(request: int, version: int = 0, packed: bool = False) -> list[dict[str, Any]]:
    rows = [row(request, index, version) for index in range(SIZES[request])]
    return [{"index": index, "embedding": b64(one) if packed else one} for index, one in enumerate(rows)]


def line(custom_id: object, response: object = None, error: object = None, **more: object) -> bytes:
    return json.dumps({"id": "r", "custom_id": custom_id, "response": response, "error": error, **more}).encode()


def success(request: int, items: object, tokens: int = 7) -> bytes:
    body = {"object": "list", "data": items, "model": "m", "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
    return line(f"{SHARD}-{request}", {"status_code": 200, "request_id": "q", "body": body})


def failure(request: int, status: int = 400, code: object = "bad_input", message: object = "no") -> bytes:
    body = {"error": {"code": code, "message": message}}
    return line(f"{SHARD}-{request}", {"status_code": status, "request_id": "q", "body": body})


def load(folder: Path, output: list[bytes], errors: list[bytes] | None = None, end: bytes = b"\n") -> Loaded:
    files = []
    for name, lines in (("output.jsonl", output), ("error.jsonl", errors)):
        if lines is not None:
            (folder / name).write_bytes(b"\n".join(lines) + (end if lines else b""))
            files.append(folder / name)
    return load_batch(requests(), files, DIMENSIONS, folder / "pack.parquet")


def vectors(folder: Path) -> dict[bytes, Row]:
    """What the pack holds; no id may stand twice."""
    found = [pair for text_ids, rows in read_pack(folder / "pack.parquet") for pair in zip(ids.tolist(text_ids), rows)]
    assert len({name for name, _ in found}) == len(found)
    return {name: one.tolist() for name, one in found}


def whole(request: int, version: int = 0) -> dict[bytes, Row]:
    return {text_id(request, index): row(request, index, version) for index in range(SIZES[request])}


# ---------------------------------------------------------------------------------------------------------------------
# Any mixture of lines, against a model that knows what each was meant to be


@dataclass(frozen=True)
class Meant:
    """A line, and what a loader is to make of it: rows by index (None: unusable), or nothing at all."""

    raw: bytes
    request: int | None = None
    rows: tuple[Row | None, ...] | None = None
    refused: bool = False


NAN = float("nan")
SPOILT: list[object] = [None, [NAN, 1.0, 1.0], [1.0, NAN, 1.0], [0.0, 0.0, 0.0], "AAAA=", [[1.0]], {"a": 1}]
numbers = st.integers(0, len(SIZES) - 1)


@st.composite
def good(draw: st.DrawFn) -> Meant:
    """A success: items shuffled, floats and base64 mixed, some of them unusable."""
    request, version = draw(numbers), draw(st.integers(0, 1))
    items, rows = [], list[Row | None]()
    for index in range(SIZES[request]):
        value = draw(st.sampled_from(["float", "base64", "float", "spoilt"]))
        one = row(request, index, version)
        embedding = draw(st.sampled_from(SPOILT)) if value == "spoilt" else b64(one) if value == "base64" else one
        items.append({"index": index, "embedding": embedding})
        rows.append(None if value == "spoilt" else one)
    return Meant(success(request, draw(st.permutations(items))), request, tuple(rows))


@st.composite
def useless(draw: st.DrawFn) -> Meant:
    """A success that nobody can make use of: too few, too many, or wrongly numbered items."""
    request = draw(numbers)
    items: list[Any] = data(request)
    how = draw(st.sampled_from(["short", "long", "index", "twice", "null", "item", "object"]))
    broken: dict[str, object] = {
        "short": items[:-1], "long": [*items, items[0]], "index": [{**one, "index": one["index"] + 1} for one in items],
        "twice": [*items[:-1], {**items[-1], "index": 0}] if len(items) > 1 else [], "null": None,
        "item": [*items[:-1], 5], "object": {"0": items},
    }  # fmt: skip
    return Meant(success(request, broken[how]))


@st.composite
def failed(draw: st.DrawFn) -> Meant:
    request, status = draw(numbers), draw(st.sampled_from([400, 404, 422, 429, 500, 503]))
    return Meant(failure(request, status), request, refused=status not in (429, 500, 503))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
own_ids = numbers.map(lambda number: f"{SHARD}-{number}")
odd_ids = st.sampled_from(
    [None, 5, "", "x", SHARD, f"{SHARD}-", f"{SHARD}-99", f"{SHARD}--1", f"{SHARD}-1x", "other-0"]
)


@st.composite
def nonsense(draw: st.DrawFn) -> Meant:
    """Lines of any shape that hold no success of ours."""
    what = draw(st.sampled_from(["bytes", "json", "id", "response", "body", "nulls", "status"]))
    if what == "bytes":
        return Meant(draw(st.binary(max_size=30)).replace(b"\n", b" "))
    if what == "json":
        return Meant(json.dumps(draw(json_values)).encode())
    if what == "id":
        return Meant(line(draw(odd_ids | json_values), {"status_code": 200, "body": {"data": data(0)}}))
    if what == "response":
        return Meant(
            line(draw(own_ids), draw(json_values.filter(lambda v: not isinstance(v, dict))), draw(json_values))
        )
    if what == "body":
        body = draw(json_values.filter(lambda value: not isinstance(value, dict) or "data" not in value))
        return Meant(line(draw(own_ids), {"status_code": draw(st.sampled_from([200, 0, None, "200"])), "body": body}))
    if what == "nulls":
        return Meant(line(draw(own_ids)))
    return Meant(line(draw(own_ids), {"status_code": 0, "body": {"data": data(0)}}))


lines = st.lists(good() | good() | useless() | failed() | nonsense(), max_size=14)


@settings(max_examples=200)
@given(lines, lines, st.booleans(), st.sampled_from([b"", b"\n", b"\n\n \n"]))
def test_any_lines_in_any_order(
    tmp_path: Path, output: list[Meant], errors: list[Meant], twice: bool, end: bytes
) -> None:
    output = [*output, *output[:3]] if twice else output
    loaded = load(tmp_path, [one.raw for one in output], [one.raw for one in errors], end)
    expected: dict[bytes, Row] = {}
    done: set[int] = set()
    for meant in [*output, *errors]:
        if meant.request is not None and meant.rows is not None and meant.request not in done:
            done.add(meant.request)
            named = {text_id(meant.request, index): one for index, one in enumerate(meant.rows)}
            expected |= {name: one for name, one in named.items() if one is not None}
    assert vectors(tmp_path) == expected
    assert loaded.vectors == len(expected)
    assert loaded.ids == b"".join(sorted(expected))
    last = {one.request: one for one in [*output, *errors] if one.request is not None and one.rows is None}
    refused = {request for request, one in last.items() if one.refused} - done
    assert {one.text_id for one in loaded.refusals} == {
        text_id(request, index).hex() for request in refused for index in range(SIZES[request])
    }
    own = {name.hex() for name in ids.tolist(requests().text_ids)}
    assert {one.text_id for one in loaded.unusable} <= own - {name.hex() for name in expected}


# ---------------------------------------------------------------------------------------------------------------------
# One thing at a time


def test_order_of_lines_does_not_matter(tmp_path: Path) -> None:
    everything = [success(request, data(request, packed=request % 2 == 0)) for request in range(len(SIZES))]
    for number, order in enumerate((everything, everything[::-1])):
        folder = tmp_path / str(number)
        folder.mkdir()
        loaded = load(folder, order, [])
        assert (loaded.vectors, loaded.prompt_tokens, dict(loaded.anomalies)) == (11, 35, {})
        assert vectors(folder) == {name: one for request in range(len(SIZES)) for name, one in whole(request).items()}


def test_what_is_missing_is_simply_not_there(tmp_path: Path) -> None:
    loaded = load(tmp_path, [success(1, data(1))])
    assert vectors(tmp_path) == whole(1)
    assert (loaded.refusals, loaded.unusable, dict(loaded.anomalies)) == ([], [], {})


@pytest.mark.parametrize("files", [[], [[]], [[], []], [None, []]], ids=["none", "empty", "both empty", "error only"])
def test_no_lines_are_an_empty_pack(tmp_path: Path, files: list[list[bytes] | None]) -> None:
    output = files[0] if files else None
    loaded = load(tmp_path, output, files[1] if len(files) > 1 else None)  # type: ignore[arg-type]
    assert (loaded.vectors, loaded.ids, vectors(tmp_path)) == (0, b"", {})


def test_an_equal_line_again_is_only_counted(tmp_path: Path) -> None:
    loaded = load(tmp_path, [success(0, data(0)), success(0, data(0))])
    assert vectors(tmp_path) == whole(0)
    assert (dict(loaded.anomalies), loaded.odd_lines) == ({"repeated_line": 1}, [])
    assert loaded.prompt_tokens == 7


def test_of_different_lines_the_first_is_used_and_the_other_kept_to_be_looked_at(tmp_path: Path) -> None:
    loaded = load(tmp_path, [success(0, data(0, version=0)), success(0, data(0, version=1))])
    assert vectors(tmp_path) == whole(0, version=0)
    assert dict(loaded.anomalies) == {"conflicting_line": 1}
    (kept,) = loaded.odd_lines
    assert kept.startswith("conflicting_line: ") and "2.0" in kept


def test_what_a_request_cost_counts_once(tmp_path: Path) -> None:
    """However often its line comes, and whether or not it is of use."""
    useless = success(1, data(1)[:1])
    assert load(tmp_path, [useless, useless, success(1, data(1)), success(1, data(1, 1))]).prompt_tokens == 7
    assert load(tmp_path, [success(1, data(1), 0), success(1, data(1))]).prompt_tokens == 0


def test_a_usable_answer_after_a_useless_one_is_used(tmp_path: Path) -> None:
    loaded = load(tmp_path, [success(1, data(1)[:1]), success(1, data(1))])
    assert vectors(tmp_path) == whole(1)
    assert (loaded.unusable, dict(loaded.anomalies)) == ([], {"wrong_count": 1})


@pytest.mark.parametrize("first", ["output", "error"])
def test_a_success_wins_over_an_error_of_the_same_request(tmp_path: Path, first: str) -> None:
    one, other = [success(2, data(2))], [failure(2)]
    loaded = load(tmp_path, *((one, other) if first == "output" else (other, one)))
    assert vectors(tmp_path) == whole(2)
    assert loaded.refusals == []


def test_a_refused_request_is_a_refusal_for_each_of_its_texts(tmp_path: Path) -> None:
    loaded = load(tmp_path, [], [failure(0, message="too long"), failure(1)])
    assert [(one.code, one.message, one.alone) for one in loaded.refusals] == [
        ("bad_input", "too long", True), *[("bad_input", "no", False)] * 3,
    ]  # fmt: skip
    assert [one.text_id for one in loaded.refusals[1:]] == [text_id(1, index).hex() for index in range(3)]


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503])
def test_the_providers_own_trouble_costs_no_try(tmp_path: Path, status: int) -> None:
    loaded = load(tmp_path, [], [failure(0, status, code=None)])
    assert (loaded.refusals, dict(loaded.anomalies)) == ([], {f"http_{status}": 1})


@pytest.mark.parametrize("code", ["batch_expired", "batch_cancelled", "something_new"])
def test_a_request_that_never_ran_costs_no_try(tmp_path: Path, code: str) -> None:
    loaded = load(tmp_path, [], [line(f"{SHARD}-0", None, {"code": code, "message": "m"})])
    assert (loaded.refusals, dict(loaded.anomalies)) == ([], {code: 1})


def test_response_and_error_both_null_and_status_zero_never_ran(tmp_path: Path) -> None:
    never = line(f"{SHARD}-1", {"status_code": 0, "request_id": "", "body": None}, {"message": "lost"})
    loaded = load(tmp_path, [line(f"{SHARD}-0"), never])
    assert (loaded.refusals, dict(loaded.anomalies)) == ([], {"absent": 1, "http_0": 1})


def test_a_vector_that_makes_no_sense_costs_its_text_alone_a_try(tmp_path: Path) -> None:
    items = data(1)
    items[1]["embedding"] = [NAN, 0.0, 0.0]
    loaded = load(tmp_path, [success(1, items)])
    assert vectors(tmp_path).keys() == {text_id(1, 0), text_id(1, 2)}
    (unusable,) = loaded.unusable
    assert (unusable.text_id, unusable.code, unusable.alone) == (text_id(1, 1).hex(), "bad_vector", True)
    assert (dict(loaded.anomalies), len(loaded.odd_lines)) == ({"bad_vector": 1}, 1)


def test_an_answer_that_makes_no_sense_makes_its_texts_suspect(tmp_path: Path) -> None:
    loaded = load(tmp_path, [success(1, data(1)[:2]), success(0, [])])
    assert [(one.code, one.alone) for one in loaded.unusable] == [("wrong_count", False)] * 3 + [("wrong_count", True)]
    assert "2 embeddings for 3 inputs" in loaded.unusable[0].message
    assert dict(loaded.anomalies) == {"wrong_count": 2}


def test_another_number_of_dimensions_is_nobodys_try(tmp_path: Path) -> None:
    """A quarter of the numbers, as a server once sent: the configuration or the server is wrong, not the texts."""
    items = [{"index": index, "embedding": [1.0]} for index in range(3)]
    loaded = load(tmp_path, [success(1, items)])
    assert (vectors(tmp_path), loaded.unusable, loaded.refusals) == ({}, [], [])
    assert dict(loaded.anomalies) == {"wrong_dimensions": 3}


@pytest.mark.parametrize(
    "custom_id",
    [None, 5, "", "x-0", SHARD, f"{SHARD}-5", f"{SHARD}--1", f"{SHARD}-0.0", f"{SHARD}-٣", f"{SHARD}-" + "9" * 5000, ["a"]],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_a_line_of_another_shard_or_of_none_is_foreign(tmp_path: Path, custom_id: object) -> None:
    response = {"status_code": 200, "body": {"data": data(0)}}
    loaded = load(tmp_path, [line(custom_id, response), success(3, data(3))])
    assert vectors(tmp_path) == whole(3)
    assert dict(loaded.anomalies) == {"foreign_custom_id": 1}


@pytest.mark.parametrize("space", ["\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\x1c"])
def test_only_a_newline_ends_a_line(tmp_path: Path, space: str) -> None:
    raw = json.loads(success(0, data(0)))
    raw["response"]["request_id"] = f"a{space}b"
    loaded = load(tmp_path, [json.dumps(raw, ensure_ascii=space < " ").encode(), success(3, data(3))])
    assert vectors(tmp_path) == whole(0) | whole(3)
    assert dict(loaded.anomalies) == {}


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\n\n\n"], ids=repr)
def test_the_last_line_counts_however_it_ends(tmp_path: Path, end: bytes) -> None:
    load(tmp_path, [success(0, data(0)), b"", success(3, data(3))], end=end)
    assert vectors(tmp_path) == whole(0) | whole(3)


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff\xfe\x00", b"{", b"[]", b"5", b"null", b'"x"', b"<html>502</html>", success(0, [])[:-20], b"\x00" * 9,
        b"[" * 5000, b'{"custom_id":"\\ud800"}', b"{'a':1}", b"NaN",
    ],
    ids=lambda raw: repr(raw[:20]),
)  # fmt: skip
def test_a_line_that_is_no_json_object_is_kept_to_be_looked_at(tmp_path: Path, raw: bytes) -> None:
    loaded = load(tmp_path, [raw, success(3, data(3))])
    assert vectors(tmp_path) == whole(3)
    assert dict(loaded.anomalies) == {"not_json": 1}
    assert loaded.odd_lines[0].startswith("not_json: ")


@pytest.mark.parametrize("deep", ["[", '{"a":'])
@pytest.mark.parametrize("where", ["body", "code", "message", "error"])
def test_an_error_nested_as_deep_as_json_may_be(tmp_path: Path, deep: str, where: str) -> None:
    nested = deep * 900 + "1" + ("]" if deep == "[" else "}") * 900
    body = {
        "body": nested,
        "code": f'{{"error":{{"code":{nested}}}}}',
        "message": f'{{"error":{{"message":{nested}}}}}',
    }
    response = f'{{"status_code":400,"body":{body.get(where, "null")}}}' if where in body else "null"
    error = nested if where == "error" else "null"
    raw = f'{{"custom_id":"{SHARD}-0","response":{response},"error":{error}}}'
    loaded = load(tmp_path, [raw.encode(), success(3, data(3))])
    assert vectors(tmp_path) == whole(3)
    assert len(loaded.refusals) == (0 if where == "error" else 1)


def test_a_very_long_line_is_read_and_a_long_odd_one_kept_in_part(tmp_path: Path) -> None:
    raw = json.loads(success(0, data(0)))
    raw["response"]["body"]["padding"] = "x" * 5_000_000
    loaded = load(tmp_path, [json.dumps(raw).encode(), b"y" * 3_000_000])
    assert vectors(tmp_path) == whole(0)
    assert len(loaded.odd_lines[0]) < 3_000


def test_odd_lines_and_kinds_are_counted_without_end_but_not_kept(tmp_path: Path) -> None:
    loaded = load(tmp_path, [b"garbage"] * 500, [line(f"{SHARD}-0", None, {"code": f"c{n}" * 50}) for n in range(500)])
    assert loaded.anomalies["not_json"] == 500
    assert sum(loaded.anomalies.values()) == 1_000
    assert len(loaded.anomalies) <= 65 and max(map(len, loaded.anomalies)) <= 64
    assert len(loaded.odd_lines) == 20


def test_a_providers_endless_words_are_cut(tmp_path: Path) -> None:
    (refusal,) = load(tmp_path, [], [failure(0, code="c" * 9_000, message="m" * 90_000)]).refusals
    assert (len(refusal.code), len(refusal.message)) == (64, 2_000)


def test_anomalies_count_every_line_once(tmp_path: Path) -> None:
    output = [b"x", success(0, data(0)), success(0, data(0)), success(0, data(0, 1)), success(1, []), line("z")]
    loaded = load(tmp_path, output, [line(f"{SHARD}-2")])
    assert loaded.anomalies == Counter(
        not_json=1, repeated_line=1, conflicting_line=1, wrong_count=1, foreign_custom_id=1, absent=1
    )


def test_nothing_is_left_of_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_batch(requests(), [tmp_path / "not there"], DIMENSIONS, tmp_path / "pack.parquet")
    assert list(tmp_path.iterdir()) == []
