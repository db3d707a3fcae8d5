"""Receives a multipart upload straight into a part file, with the size limit enforced on the way.

Fields may come before or after the file. The part file is removed unless it becomes a file.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
from multipart import MultipartError, PushMultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from embedfill.batchapi.limits import LOCAL
from embedfill.batchapi.models import File
from embedfill.engine.auth import owner
from embedfill.engine.files import Files
from embedfill.engine.refusal import refused
from embedfill.errors import RefusedError

PURPOSES = ("assistants", "batch", "evals", "fine-tune", "user_data", "vision")
_OTHER_BYTES = 512_000_000
_FIELD_BYTES = 65_536
_BUFFER_BYTES = 1 << 20
_EXPIRY_S = (3_600, 2_592_000)


async def receive(request: Request, files: Files) -> File:
    """The uploaded file. Raises RefusedError, or ClientDisconnect; neither leaves anything behind."""
    upload = Upload(files, request.headers.get("content-type", ""), owner(request))
    try:
        held, size = [], 0
        async for chunk in request.stream():
            held.append(chunk)
            size += len(chunk)
            if size >= _BUFFER_BYTES:
                await run_in_threadpool(upload.feed, b"".join(held))
                held, size = [], 0
        return await run_in_threadpool(upload.finish, b"".join(held))
    finally:
        upload.close()


class Upload:
    """One multipart body. `feed` blocks on the disk: call it off the event loop, one call after the other."""

    def __init__(self, files: Files, content_type: str, owner: str) -> None:
        kind, options = parse_options_header(content_type)
        if kind != "multipart/form-data" or not options.get("boundary"):
            raise refused("Send the file as multipart/form-data.", None, "invalid_content_type")
        self._files = files
        self._owner = owner
        self._parser = PushMultipartParser(options["boundary"])
        self._part = files.new_part()
        self._file = self._part.open("wb")
        self._fields: dict[str, bytearray] = {}
        self._name = ""
        self._filename: str | None = None
        self._bytes = 0

    def feed(self, data: bytes, last: bool = False) -> None:
        """Raises RefusedError (400) for a malformed body and for one that is too large."""
        try:
            for event in self._parser.parse(data) if data else ():
                if isinstance(event, bytes | bytearray):
                    self._payload(event)
                elif event is not None:
                    self._segment(event)
            if last:
                self._parser.close()
        except MultipartError as error:
            raise refused(f"The multipart body is malformed: {error}.", None, "invalid_multipart") from None

    def finish(self, data: bytes) -> File:
        """Takes the last bytes, checks the whole and makes it a file."""
        self.feed(data, last=True)
        purpose = self._purpose()
        if self._filename is None:
            raise refused("Missing required parameter: 'file'.", "file", "missing_required_parameter")
        self._check_size(purpose)
        expires_after_s = expiry({name: value.decode(errors="replace") for name, value in self._fields.items()})
        self._file.flush()
        os.fsync(self._file.fileno())
        if purpose == "batch":
            _check_first_line(self._part)
        return self._files.adopt(self._part, self._filename or "upload", purpose, expires_after_s, self._owner)

    def close(self) -> None:
        with suppress(OSError):  # a full disk: nobody wants what is still to be written
            self._file.close()
        self._part.unlink(missing_ok=True)

    def _segment(self, segment: Any) -> None:  # noqa: ANN401 - multipart has no types
        self._name = segment.name or ""
        if self._name == "file":
            if self._filename is not None:
                raise refused("Send one file.", "file")
            self._filename = segment.filename or ""
        else:
            self._fields[self._name] = bytearray()

    def _payload(self, data: bytes | bytearray) -> None:
        if self._name == "file":
            self._file.write(data)
            self._bytes += len(data)
            self._check_size(self._fields.get("purpose", b"").decode(errors="replace"))
        else:
            field = self._fields[self._name]
            field += data
            if len(field) > _FIELD_BYTES:
                raise refused(f"The field is longer than {_FIELD_BYTES} bytes.", self._name)

    def _check_size(self, purpose: str) -> None:
        most = LOCAL.file_bytes if purpose == "batch" else _OTHER_BYTES
        if self._bytes > most:
            raise refused(f"File is too large. The limit for this purpose is {most} bytes.", "file", "file_too_large")

    def _purpose(self) -> str:
        purpose = self._fields.get("purpose", b"").decode(errors="replace")
        if not purpose:
            raise refused("Missing required parameter: 'purpose'.", "purpose", "missing_required_parameter")
        if purpose not in PURPOSES:
            raise refused(f"'{purpose}' is not one of {', '.join(PURPOSES)}.", "purpose")
        return purpose


def expiry(fields: Mapping[str, Any], name: str = "expires_after") -> int | None:
    """Seconds to keep a file, from `NAME[anchor]` and `NAME[seconds]`, or from one JSON value. Raises RefusedError."""
    value = fields.get(name)
    if value is None:
        bracketed = {key: fields.get(f"{name}[{key}]") for key in ("anchor", "seconds")}
        value = bracketed if any(bracketed.values()) else None
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            raise refused(f"{name} is not valid JSON.", name) from None
    if value is None:
        return None
    if not isinstance(value, dict) or value.get("anchor") != "created_at":
        raise refused(f"{name} needs the anchor 'created_at'.", f"{name}.anchor")
    seconds = str(value.get("seconds"))
    if not seconds.isascii() or not seconds.isdigit() or not _EXPIRY_S[0] <= int(seconds) <= _EXPIRY_S[1]:
        raise refused(f"{name}.seconds must be from {_EXPIRY_S[0]} to {_EXPIRY_S[1]}.", f"{name}.seconds")
    return int(seconds)


def _check_first_line(path: Path) -> None:
    """The API looks no further at upload: a bad later line is for validation to find."""
    with path.open("rb") as file:
        first = next((line for line in file if line.strip()), None)
    if first is None:
        raise refused("The file is empty.", "file", "empty_file")
    try:
        orjson.loads(first)
    except orjson.JSONDecodeError as error:
        message = f"Invalid file format: the first line is not valid JSON ({error})."
        raise RefusedError(400, "invalid_file_format", message, param="file") from None
