"""The routes under /batches: create, list, retrieve, cancel. Checks what POST /batches checks; the file is not read."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from embedfill import ids
from embedfill.batchapi.limits import OPENAI
from embedfill.batchapi.models import ENDPOINTS
from embedfill.engine.http.auth import owner
from embedfill.engine.http.bodies import read_json
from embedfill.engine.http.wire import answer, limit, parse_json
from embedfill.engine.refusal import refused
from embedfill.engine.state.batches import Batches, NewBatch
from embedfill.engine.state.purposes import expiry

_BODY_BYTES = 1_000_000


class BatchRoutes:
    """`windows`: what a batch may be given, in seconds by its name. `wake` is called when there may be something to do."""

    def __init__(self, batches: Batches, windows: Mapping[str, int], wake: Callable[[], None]) -> None:
        self._batches = batches
        self._windows = windows
        self._wake = wake

    def routes(self) -> list[Route]:
        return [
            Route("/batches", self.create, methods=["POST"]),
            Route("/batches", self.list, methods=["GET"]),
            Route("/batches/{id}", self.get, methods=["GET"]),
            Route("/batches/{id}/cancel", self.cancel, methods=["POST"]),
        ]

    async def create(self, request: Request) -> Response:
        body = parse_json(await read_json(request, _BODY_BYTES))
        new = parse(body, self._windows, request.headers.get("idempotency-key"), owner(request))
        batch = await run_in_threadpool(self._batches.create, new)
        self._wake()
        return answer(batch)

    async def list(self, request: Request) -> Response:
        most = limit(request, 20, OPENAI.list_page)
        return answer(
            await run_in_threadpool(self._batches.page, request.query_params.get("after"), most, owner(request))
        )

    async def get(self, request: Request) -> Response:
        return answer(await run_in_threadpool(self._batches.get, request.path_params["id"], owner(request)))

    async def cancel(self, request: Request) -> Response:
        batch = await run_in_threadpool(self._batches.cancel, request.path_params["id"], owner(request))
        self._wake()
        return answer(batch)


def parse(body: dict[str, Any], windows: Mapping[str, int], idempotency_key: str | None, owner: str) -> NewBatch:
    """Checks the body of POST /batches. Raises RefusedError (400)."""
    for name in ("input_file_id", "endpoint", "completion_window"):
        value = body.get(name)
        if value is None or value == "":
            raise refused(f"Missing required parameter: '{name}'.", name, "missing_required_parameter")
        if not isinstance(value, str):
            raise refused(f"Invalid type for '{name}': expected a string.", name, "invalid_type")
    _one_of(body, "endpoint", ENDPOINTS)
    _one_of(body, "completion_window", windows)
    return NewBatch(
        endpoint=body["endpoint"],
        input_file_id=body["input_file_id"],
        completion_window=body["completion_window"],
        metadata=_metadata(body.get("metadata")),
        output_seconds=expiry(body, "output_expires_after"),
        idempotency_key=idempotency_key or None,
        request=ids.canonical(body).decode(),
        owner=owner,
        window_s=windows[body["completion_window"]],
    )


def _one_of(body: dict[str, Any], name: str, values: Iterable[str]) -> None:
    if body[name] not in values:
        supported = ", ".join(f"'{value}'" for value in values)
        raise refused(f"Invalid value: '{body[name]}'. Supported values are: {supported}.", name)


def _metadata(value: object) -> dict[str, str] | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise refused("Invalid type for 'metadata': expected an object.", "metadata", "invalid_type")
    if len(value) > OPENAI.metadata_pairs:
        message = f"metadata has {len(value)} pairs; at most {OPENAI.metadata_pairs} are allowed."
        raise refused(message, "metadata", "object_above_max_properties")
    for key, item in value.items():
        _check_pair(key, item)
    return value


def _check_pair(key: str, value: object) -> None:
    param = f"metadata.{key}"
    if not isinstance(value, str):
        raise refused(f"Invalid type for '{param}': expected a string.", param, "invalid_type")
    for what, text, most in (
        ("key", key, OPENAI.metadata_key_chars),
        ("value", value, OPENAI.metadata_value_chars),
    ):
        if len(text) > most:
            message = f"Invalid '{param}': its {what} has {len(text)} characters; at most {most} are allowed."
            raise refused(message, param, "string_above_max_length")
