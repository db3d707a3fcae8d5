"""The spool: rows in order with their counts, and names that stand twice."""

from pathlib import Path

import numpy as np
import pytest

from embedfill import ids
from embedfill.errors import UsageError
from embedfill.jobs.request import Request, rejection
from embedfill.jobs.spool import NO_ID, Spool, SpoolWriter
from embedfill.records import Rejection
from tests.chat_fixtures import CHAT

BODY = '{"model":"%s","max_tokens":%d,"messages":[]}'


def request(row: int, name: str, model: str = "m", most: int = 1) -> Request:
    body = {"model": model, "max_tokens": most, "messages": []}
    return Request(row, name, body, BODY % (model, most))


def spooled(folder: Path, *files: list[Request | Rejection]) -> Spool:
    sources = [(Path(f"f{number}"), items) for number, items in enumerate(files)]
    return SpoolWriter(folder / "spool.parquet", CHAT).write(sources)


def test_rows_keep_their_order_counts_and_models(tmp_path: Path) -> None:
    bad = rejection("f0", 2, "x", "no_model", "words")
    spool = spooled(tmp_path, [request(1, "a"), bad], [request(1, "b", "other", 7), request(2, "c")])
    assert (spool.models, spool.model.tolist()) == (["m", "other"], [0, -1, 1, 0])
    assert spool.output.tolist() == [1, 0, 7, 1] and spool.asked.tolist() == [True, False, True, True]
    assert spool.tokens.tolist() == [3, 0, 3, 3] and ids.tolist(spool.row_ids)[1] == NO_ID
    (table,) = spool.wanted(1)
    assert table.to_pydict()["text"] == [BODY % ("other", 7)] and spool.source(2).file == "f1"
    codes = [code for batch in spool.batches() for code in batch["error_code"].to_pylist()]
    assert codes == [None, "no_model", None, None]


def test_the_identity_of_a_request_is_its_name_and_body(tmp_path: Path) -> None:
    spool = spooled(tmp_path, [request(1, "a"), request(2, "b"), request(3, "c", most=2)])
    other = spooled(tmp_path, [request(9, "c", most=3), request(4, "b"), request(5, "a")])
    assert len(np.unique(spool.row_ids)) == 3
    assert np.isin(other.row_ids, spool.row_ids).tolist() == [False, True, True]


def test_many_names_and_one_that_stands_twice(tmp_path: Path) -> None:
    many: list[Request | Rejection] = [request(number, f"n{number}") for number in range(1, 3001)]
    spool = spooled(tmp_path, many, [request(1, "n7"), request(2, "new")])
    assert np.flatnonzero(~spool.kept).tolist() == [3000] and len(spool) == 3002
    with pytest.raises(UsageError, match="f0 row 7 and f1 row 1"):
        spooled(tmp_path, many, [request(1, "n7", most=2), request(2, "n9", most=2)])
