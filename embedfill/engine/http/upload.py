"""An upload in one piece: from a multipart body to a file. What the file must be, `purposes` knows."""

from collections.abc import Callable, Mapping

from starlette.requests import Request

from embedfill.batchapi.models import File
from embedfill.engine.http.auth import owner
from embedfill.engine.http.form import Form, receive
from embedfill.engine.state.files import Files, new_file, plain_name
from embedfill.engine.state.purposes import check_first_line, checked_purpose, expiry, most_bytes


async def upload(request: Request, files: Files) -> File:
    """The file of a multipart body. Raises RefusedError, or ClientDisconnect; neither leaves anything behind."""
    form = Form(request.headers.get("content-type", ""), "file", files.new_part(), _most)
    return await receive(request, form, _finish(form, files, owner(request)))


def _finish(form: Form, files: Files, owner: str) -> Callable[[], File]:
    def finish() -> File:
        fields = form.fields
        purpose = checked_purpose(fields.get("purpose"))
        kept_s = expiry(fields)
        name = plain_name(form.filename or "upload", "file")
        if purpose == "batch":
            check_first_line(form.part)
        return files.adopt(form.part, new_file(form.bytes, name, purpose, kept_s), owner)

    return finish


def _most(fields: Mapping[str, str]) -> int:
    return most_bytes(fields.get("purpose", ""))
