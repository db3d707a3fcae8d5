"""Errors in the API's own form."""

import asyncio

import orjson
from starlette.requests import Request

from embedfill.engine.http.wire import on_error
from embedfill.errors import WorldError


def test_what_is_wrong_and_what_to_do_are_two_sentences() -> None:
    for error, words in (
        (WorldError("it is gone", "bring it back"), "it is gone. bring it back."),
        (WorldError("gone."), "gone."),
    ):
        response = asyncio.run(on_error(Request({"type": "http"}), error))
        assert response.status_code == 500 and orjson.loads(response.body)["error"]["message"] == words
