"""The routes under /files: upload, list, retrieve, delete, content. HTTP only; `Files` does the work."""

import os

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from embedfill.batchapi.models import File
from embedfill.engine.http import ranges
from embedfill.engine.http.auth import owner
from embedfill.engine.http.upload import upload
from embedfill.engine.http.wire import Enveloped, answer, limit
from embedfill.engine.refusal import refused
from embedfill.engine.state.files import Files
from embedfill.errors import RefusedError

_MOST = 10_000


class Content(FileResponse):
    """Bytes of a file, with ranges. Larger chunks than the default: they cost a third of the time."""

    chunk_size = 1 << 20


class FileRoutes:
    def __init__(self, files: Files) -> None:
        self._files = files

    def routes(self) -> list[Route]:
        return [
            Route("/files", self.create, methods=["POST"]),
            Route("/files", self.list, methods=["GET"]),
            Route("/files/{id}", self.get, methods=["GET"]),
            Route("/files/{id}", self.delete, methods=["DELETE"]),
            Route("/files/{id}/content", self.content, methods=["GET"]),
        ]

    async def create(self, request: Request) -> Response:
        return answer(await upload(request, self._files))

    async def list(self, request: Request) -> Response:
        query = request.query_params
        order = query.get("order", "desc")
        if order not in ("asc", "desc"):
            raise refused(f"order must be 'asc' or 'desc', not {order!r}.", "order")
        most = limit(request, _MOST, _MOST)
        purpose, after = query.get("purpose"), query.get("after")
        return answer(await run_in_threadpool(self._files.page, purpose, after, most, owner(request), order == "desc"))

    async def get(self, request: Request) -> Response:
        return answer(await run_in_threadpool(self._files.get, request.path_params["id"], owner(request)))

    async def delete(self, request: Request) -> Response:
        file_id = request.path_params["id"]
        await run_in_threadpool(self._files.delete, file_id, owner(request))
        return answer({"id": file_id, "object": "file", "deleted": True})

    async def content(self, request: Request) -> ASGIApp:
        file, stat = await run_in_threadpool(self._find, request.path_params["id"], owner(request))
        etag = f'"{file.id}"'  # a file never changes under its id, so the id is a strong validator
        headers = {"ETag": etag}
        if ranges.matches(request.headers.get("if-none-match", ""), etag):
            return Response(status_code=304, headers=headers)
        _only_readable(request, stat.st_size)
        return Enveloped(
            Content(
                self._files.path(file.id),
                headers=headers,
                media_type="application/octet-stream",
                filename=file.filename,
                stat_result=stat,
            )
        )

    def _find(self, file_id: str, owner: str) -> tuple[File, os.stat_result]:
        """Raises RefusedError: 404, or 500 where a file has lost its bytes."""
        file = self._files.get(file_id, owner)
        try:
            return file, self._files.path(file.id).stat()
        except FileNotFoundError:
            self._files.get(file_id, owner)  # somebody may have deleted it just now
            message = (
                f"The bytes of {file.id} are gone from the engine's directory: delete the file, and upload it again."
            )
            raise RefusedError(500, "file_bytes_missing", message) from None


def _only_readable(request: Request, size: int) -> None:
    """Leaves of a request's Range what the response can serve."""
    headers = MutableHeaders(scope=request.scope)
    asked = ",".join(request.headers.getlist("range"))
    del headers["range"]
    left = ranges.readable(asked, size) if asked else None
    if left is not None:
        headers["range"] = left
