"""Packing texts into requests and shards, and the batch file: nothing lost, nothing over a limit, exact bytes."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfill import ids
from embedfill.batchapi.limits import LOCAL, OPENAI, Limits
from embedfill.batchapi.lines import EmbeddingsRequest, request_number
from embedfill.tracker.shards import (
    Packed,
    Packer,
    Packing,
    request_tokens,
    shard_ids,
    shard_record,
    write_batch_file,
    write_shard,
)

Row = tuple[str, int, int | None]  # text, tokens, the most inputs of its request
ODD = [
    "\u2028",
    "\u2029",
    "\u0085",
    '"',
    "\\",
    "\n",
    "\r\n",
    "\0",
    "\x1f",
    "\x7f",
    "😀",
    "é",
    "漢",
    "\ufffd",
    "</s>",
    " ",
]

texts = st.lists(st.sampled_from([*ODD, "word", "x" * 40]), max_size=6).map("".join) | st.text(max_size=12)
rows = st.lists(st.tuples(texts, st.integers(0, 60), st.sampled_from([None, None, 1, 3])), max_size=40)


def few(most: int, least: int = 1) -> st.SearchStrategy[int]:
    """A limit that is tight, or out of the way: so that each one is the first to be met in some example."""
    return st.integers(least, most) | st.just(10**9)


packings = st.builds(
    Packing,
    limits=st.builds(
        Limits,
        file_bytes=few(4000, 300),
        batch_requests=few(8),
        batch_inputs=few(12),
        request_inputs=few(5),
        request_tokens=few(100),
        output_bytes=few(2000, 100),
    ),
    dimensions=st.sampled_from([1, 4, 384]),
    encoding=st.sampled_from(["base64", "float"]),
    inputs_per_request=few(6),
    max_inputs=few(12),
    shard_tokens=st.none() | st.integers(1, 200),
    model=st.sampled_from(["m", "an organisation/" + "with a very long name of a “model” " * 5]),
)


def pack(values: Sequence[Row], packing: Packing) -> list[Packed]:
    packer = Packer(packing)
    full = [packer.add(ids.text_id(text), text, tokens, most) for text, tokens, most in values]
    return [one for one in [*full, packer.finish()] if one is not None and one.rows]


def requests_of(packed: Packed) -> list[list[tuple[str, int]]]:
    """Texts and tokens of each request."""
    found: list[list[tuple[str, int]]] = [[] for _ in range(packed.requests)]
    for request, _, text, tokens in packed.rows:
        found[request].append((text, tokens))
    return found


def batch_file(packed: Packed, folder: Path, model: str = "m", **options: Any) -> tuple[Path, str]:
    shard = shard_record(packed, "space", 1).id
    write_shard(packed, folder / "shard.parquet")
    request = EmbeddingsRequest(model, options.get("encoding", "base64"), options.get("dimensions"))
    write_batch_file(folder / "shard.parquet", folder / "batch.jsonl", shard, request.line)
    return folder / "batch.jsonl", shard


@given(rows, packings)
def test_every_text_goes_out_once_and_in_order(values: list[Row], packing: Packing) -> None:
    packed = pack(values, packing)
    sent = [(row[1], row[2], row[3]) for one in packed for row in one.rows]
    assert sent == [(ids.text_id(text), text, tokens) for text, tokens, _ in values]
    for one in packed:
        numbers = [row[0] for row in one.rows]
        assert numbers == sorted(numbers) and set(numbers) == set(range(one.requests))
        assert one.tokens == sum(row[3] for row in one.rows)


@given(rows, packings)
def test_no_limit_is_ever_exceeded(values: list[Row], packing: Packing) -> None:
    limits = packing.limits
    for one in pack(values, packing):
        assert len(one.rows) <= min(packing.max_inputs, limits.batch_inputs, packing.inputs)
        assert one.requests <= limits.batch_requests
        for request in requests_of(one):
            assert 1 <= len(request) <= min(packing.inputs_per_request, limits.request_inputs)
            assert len(request) == 1 or sum(tokens for _, tokens in request) <= limits.request_tokens
        if len(one.rows) > 1:  # a text that is too much by itself goes out by itself
            assert packing.shard_tokens is None or one.tokens <= packing.shard_tokens
            assert one.file_bytes <= limits.file_bytes


@given(rows, packings)
def test_the_batch_file_is_no_larger_than_was_reckoned(
    tmp_path_factory: pytest.TempPathFactory, values: list[Row], packing: Packing
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    for one in pack(values, packing)[:2]:
        path, _ = batch_file(one, folder, packing.model, encoding=packing.encoding, dimensions=16384)
        size = path.stat().st_size
        assert size <= one.file_bytes <= size + one.requests * 60


@given(rows, packings)
def test_a_suspected_text_sits_among_few_of_its_like(values: list[Row], packing: Packing) -> None:
    marked = [(f"{number}: {text}", tokens, most) for number, (text, tokens, most) in enumerate(values)]
    most_of = {text: most for text, _, most in marked}
    for one in pack(marked, packing):
        for request in requests_of(one):
            (most,) = {most_of[text] for text, _ in request}
            assert most is None or len(request) <= most


def test_suspected_texts_fill_their_requests() -> None:
    values = [(f"text {number}", 1, 10) for number in range(100)]
    (packed,) = pack(values, a_packing())
    assert Counter(map(len, requests_of(packed))) == {10: 10}
    (packed,) = pack([*values, ("new", 1, None), *values[:3]], a_packing(inputs_per_request=4))
    assert Counter(map(len, requests_of(packed))) == {4: 25, 1: 1, 3: 1}


@given(rows, packings)
def test_the_batch_file_says_just_what_the_shard_holds(
    tmp_path_factory: pytest.TempPathFactory, values: list[Row], packing: Packing
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    for one in pack(values, packing)[:2]:
        path, shard = batch_file(one, folder, "the “model”", encoding=packing.encoding, dimensions=packing.dimensions)
        data = path.read_bytes()
        assert data.endswith(b"\n")
        lines = [orjson.loads(line) for line in data.split(b"\n")[:-1]]
        assert [line["body"]["input"] for line in lines] == [
            [text for text, _ in request] for request in requests_of(one)
        ]
        assert [request_number(shard, line["custom_id"]) for line in lines] == list(range(one.requests))
        for line in lines:
            assert set(line) == {"custom_id", "method", "url", "body"} and len(line["custom_id"]) <= 64
            assert (line["method"], line["url"]) == ("POST", "/v1/embeddings")
            assert {**line["body"], "input": None} == {
                "model": "the “model”", "input": None,
                "encoding_format": packing.encoding, "dimensions": packing.dimensions,
            }  # fmt: skip


@pytest.mark.parametrize("text", ODD)
def test_odd_characters_stay_within_their_line(tmp_path: Path, text: str) -> None:
    (packed,) = pack([(f"a{text}b", 1, None), ("next", 1, None)], a_packing(inputs_per_request=1))
    path, _ = batch_file(packed, tmp_path)
    first, second, rest = path.read_bytes().split(b"\n")
    assert (orjson.loads(first)["body"]["input"], orjson.loads(second)["body"]["input"]) == ([f"a{text}b"], ["next"])
    assert rest == b""


def a_packing(**values: Any) -> Packing:
    defaults: dict[str, Any] = {
        "limits": OPENAI, "dimensions": 1536, "encoding": "base64", "inputs_per_request": 100, "max_inputs": 50_000,
        "shard_tokens": None,
    }  # fmt: skip
    return Packing(**{**defaults, **values})


def test_dimensions_are_left_out_where_the_model_takes_none(tmp_path: Path) -> None:
    (packed,) = pack([("a", 1, None)], a_packing())
    path, _ = batch_file(packed, tmp_path)
    assert "dimensions" not in orjson.loads(path.read_bytes())["body"]


def test_requests_and_shards_are_filled(tmp_path: Path) -> None:
    values = [(f"text {number}", 5, None) for number in range(1000)]
    packed = pack(values, a_packing(max_inputs=300, inputs_per_request=64))
    assert [len(one.rows) for one in packed] == [300, 300, 300, 100]
    assert Counter(len(request) for request in requests_of(packed[0])) == {64: 4, 44: 1}


def test_a_shard_is_as_full_as_its_file_may_be() -> None:
    values = [("x" * 1000, 5, None) for _ in range(1000)]
    packed = pack(values, a_packing(limits=Limits(file_bytes=100_000)))
    assert all(97_000 < one.file_bytes <= 100_000 for one in packed[:-1])


@pytest.mark.parametrize(
    ("dimensions", "encoding", "inputs"),
    [(384, "base64", 50_000), (1536, "base64", 50_000), (1536, "float", 15_124), (3072, "base64", 31_135)],
)
def test_the_output_can_still_be_downloaded(dimensions: int, encoding: str, inputs: int) -> None:
    assert a_packing(dimensions=dimensions, encoding=encoding).inputs == inputs


def test_a_local_request_may_hold_more_tokens() -> None:
    values = [("x", 8000, None) for _ in range(100)]
    assert [one.requests for one in pack(values, a_packing())] == [3]
    assert [one.requests for one in pack(values, a_packing(limits=LOCAL))] == [1]


def test_a_shards_id_follows_from_what_it_is() -> None:
    values = [("a", 1, None), ("b", 2, None)]

    def record(values: Sequence[Row] = values, space: str = "s", plan: int = 1, per_request: int = 100) -> Any:
        (packed,) = pack(values, a_packing(inputs_per_request=per_request))
        return shard_record(packed, space, plan)

    assert record() == record()
    others = {
        record().id,
        record(values[::-1]).id,
        record(values[:1]).id,
        record(space="t").id,
        record(plan=2).id,
        record(per_request=1).id,
    }
    assert len(others) == 6
    assert (record().requests, record().texts, record().tokens) == (1, 2, 3)
    assert record().key == f"shards/s/{record().id}.parquet"


def test_a_shard_is_read_back_as_it_was(tmp_path: Path) -> None:
    values = [
        (f"{ODD[number % len(ODD)]}{number}", number % 7, 1 if number % 11 == 0 else None) for number in range(9000)
    ]
    (packed,) = pack(values, a_packing(inputs_per_request=7))
    write_shard(packed, tmp_path / "x")
    text_ids, requests = shard_ids(tmp_path / "x")
    assert ids.tolist(text_ids) == [row[1] for row in packed.rows]
    assert requests.tolist() == [row[0] for row in packed.rows]
    counted = [sum(row[3] for row in packed.rows if row[0] == request) for request in range(packed.requests)]
    assert request_tokens(tmp_path / "x", packed.requests).tolist() == counted
    assert pq.read_table(tmp_path / "x").column("text").to_pylist() == [text for text, _, _ in values]
    path, _ = batch_file(packed, tmp_path)
    sent = [text for line in path.read_bytes().split(b"\n")[:-1] for text in orjson.loads(line)["body"]["input"]]
    assert sent == [text for text, _, _ in values]


def test_a_batch_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    """The shard is damaged in the middle: what was written until then must not be taken for the file."""
    values = [(f"{number} {number**7}", 1, None) for number in range(20_000)]
    (packed,) = pack(values, a_packing())
    write_shard(packed, tmp_path / "good")
    data = bytearray((tmp_path / "good").read_bytes())
    start, stop = len(data) // 2, len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    data[start:stop] = b"\xff" * (stop - start)
    (tmp_path / "bad").write_bytes(data)
    with pytest.raises((OSError, ValueError)):
        write_batch_file(tmp_path / "bad", tmp_path / "out", "shard", EmbeddingsRequest("m", "base64", None).line)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad", "good"]
    write_batch_file(tmp_path / "good", tmp_path / "out", "shard", EmbeddingsRequest("m", "base64", None).line)
    assert len((tmp_path / "out").read_bytes().split(b"\n")) == 201
