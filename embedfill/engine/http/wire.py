"""HTTP in the API's own words: the error envelope, JSON in and out, query parameters. Knows no route."""

import math
from http import HTTPStatus
from typing import Any

import orjson
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from embedfill.engine.json_text import loads
from embedfill.engine.refusal import envelope, refused
from embedfill.errors import EmbedfillError, RefusedError


def answer(value: BaseModel | dict[str, Any] | bytes, status: int = 200) -> Response:
    """A JSON answer; bytes are JSON already."""
    if isinstance(value, BaseModel):
        value = value.model_dump()
    body = value if isinstance(value, bytes) else orjson.dumps(value)
    return Response(body, status, media_type="application/json")


def refuse(error: RefusedError) -> Response:
    response = answer(envelope(error), error.status)
    if error.retry_after_s is not None:
        response.headers["retry-after"] = str(math.ceil(error.retry_after_s))
    return response


class Nothing(Response):
    """For a client that is not there any more."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...


async def on_error(_request: Request, error: Exception) -> Response:
    """Anything that a route raised, in the envelope."""
    if isinstance(error, ClientDisconnect):
        return Nothing()
    if isinstance(error, RefusedError):
        return refuse(error)
    if isinstance(error, HTTPException):
        response = refuse(_plain(error.status_code, error.detail))
        response.headers.update(error.headers or {})
        return response
    if isinstance(error, EmbedfillError):
        said = (words.rstrip(".") for words in (error.message, error.hint) if words)
        return refuse(RefusedError(500, error.code, ". ".join(said) + "."))
    return refuse(RefusedError(500, "internal_error", "The engine failed at this request; its log says why."))


def parse_json(body: bytes) -> dict[str, Any]:
    """Raises RefusedError (400) for anything but an object."""
    try:
        value = loads(body)
    except orjson.JSONDecodeError as error:
        raise refused(f"We could not parse the JSON body of your request: {error}.", None, "invalid_json") from None
    if not isinstance(value, dict):
        raise refused("The request body must be a JSON object.", None, "invalid_type")
    return value


def limit(request: Request, default: int, most: int) -> int:
    """The query parameter of that name. Raises RefusedError (400)."""
    text = request.query_params.get("limit", str(default))
    if not text.isascii() or not text.isdigit() or len(text) > 9 or not 1 <= int(text) <= most:
        raise refused(f"limit must be a whole number from 1 to {most}, not {text[:100]!r}.", "limit")
    return int(text)


class Enveloped:
    """Wraps a response of Starlette's that may turn into a plain-text error (ranges): headers stay, the body is ours."""

    def __init__(self, response: Response) -> None:
        self._response = response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def relay(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= 400:
                failure = refuse(_plain(message["status"], HTTPStatus(message["status"]).phrase))
                kept = [pair for pair in message["headers"] if pair[0] == b"content-range"]
                failure.raw_headers.extend(kept)
                await failure(scope, receive, send)
                failures.append(failure)
            elif not failures:
                await send(message)

        failures: list[Response] = []
        await self._response(scope, receive, relay)


def _plain(status: int, detail: str) -> RefusedError:
    return RefusedError(status, HTTPStatus(status).phrase.lower().replace(" ", "_"), detail)
