"""The routes under /files: upload, list, retrieve, delete, content. HTTP only; `Files` does the work."""

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from embedfill.engine import upload
from embedfill.engine.auth import owner
from embedfill.engine.files import Files
from embedfill.engine.refusal import refused
from embedfill.engine.wire import Enveloped, answer, limit

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
        try:
            return answer(await upload.receive(request, self._files))
        except ClientDisconnect:
            return Response(status_code=400)  # nobody is there to read it

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
        file = await run_in_threadpool(self._files.get, request.path_params["id"], owner(request))
        # A file never changes under its id, so the id is a strong validator.
        headers = {"ETag": f'"{file.id}"'}
        path = self._files.path(file.id)
        return Enveloped(Content(path, headers=headers, media_type="application/octet-stream", filename=file.filename))
