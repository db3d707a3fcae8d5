"""The routes under /uploads: create, add a part, complete, cancel. HTTP only; `Uploads` does the work."""

from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from embedfill.engine.http.auth import owner
from embedfill.engine.http.bodies import read_json
from embedfill.engine.http.form import Form, receive
from embedfill.engine.http.wire import answer, parse_json
from embedfill.engine.refusal import refused
from embedfill.engine.state.files import plain_name
from embedfill.engine.state.purposes import checked_purpose, expiry, most_bytes
from embedfill.engine.state.uploads import PART_BYTES, UPLOAD_BYTES, NewUpload, Uploads

_BODY_BYTES = 1_000_000


class UploadRoutes:
    def __init__(self, uploads: Uploads) -> None:
        self._uploads = uploads

    def routes(self) -> list[Route]:
        return [
            Route("/uploads", self.create, methods=["POST"]),
            Route("/uploads/{id}/parts", self.add, methods=["POST"]),
            Route("/uploads/{id}/complete", self.complete, methods=["POST"]),
            Route("/uploads/{id}/cancel", self.cancel, methods=["POST"]),
        ]

    async def create(self, request: Request) -> Response:
        new = parse(parse_json(await read_json(request, _BODY_BYTES)), owner(request))
        return answer(await run_in_threadpool(self._uploads.create, new))

    async def add(self, request: Request) -> Response:
        upload_id, who = request.path_params["id"], owner(request)
        part = await run_in_threadpool(self._uploads.new_part, upload_id, who)
        form = Form(request.headers.get("content-type", ""), "data", part, lambda _fields: PART_BYTES)
        return answer(await receive(request, form, lambda: self._uploads.add(upload_id, who, part)))

    async def complete(self, request: Request) -> Response:
        body = parse_json(await read_json(request, _BODY_BYTES))
        part_ids, md5 = body.get("part_ids"), body.get("md5")
        if not isinstance(part_ids, list) or not all(isinstance(part_id, str) for part_id in part_ids):
            raise refused("'part_ids' must be a list of strings.", "part_ids", "invalid_type")
        if md5 is not None and not isinstance(md5, str):
            raise refused("'md5' must be a string.", "md5", "invalid_type")
        upload_id, who = request.path_params["id"], owner(request)
        return answer(await run_in_threadpool(self._uploads.complete, upload_id, who, part_ids, md5))

    async def cancel(self, request: Request) -> Response:
        return answer(await run_in_threadpool(self._uploads.cancel, request.path_params["id"], owner(request)))


def parse(body: dict[str, Any], owner: str) -> NewUpload:
    """Checks the body of POST /uploads. Raises RefusedError (400)."""
    for name, kind in (("filename", str), ("purpose", str), ("bytes", int), ("mime_type", str)):
        value = body.get(name)
        if value is None or value == "":
            raise refused(f"Missing required parameter: '{name}'.", name, "missing_required_parameter")
        if not isinstance(value, kind) or isinstance(value, bool):
            wanted = "a whole number" if kind is int else "a string"
            raise refused(f"Invalid type for '{name}': expected {wanted}.", name, "invalid_type")
    purpose = checked_purpose(body["purpose"])
    most = most_bytes(purpose, UPLOAD_BYTES)
    if not 1 <= body["bytes"] <= most:
        raise refused(f"bytes must be from 1 to {most} for the purpose '{purpose}', not {body['bytes']}.", "bytes")
    return NewUpload(body["bytes"], plain_name(body["filename"], "filename"), purpose, expiry(body), owner)
