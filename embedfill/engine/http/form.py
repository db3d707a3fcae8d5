"""One multipart body with one file in it, which goes straight to disk. Bounds what it reads; knows no purpose.

Fields may come before or after the file. The part file is the caller's once the body is complete, and removed by
`close` unless it was moved away.
"""

import asyncio
import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

from multipart import MultipartError, PushMultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from embedfill.engine.refusal import refused
from embedfill.engine.state.files import write_all
from embedfill.errors import RefusedError

T = TypeVar("T")

_BUFFER_BYTES = 1 << 20
_PIECE_BYTES = 4_096  # that writing even one byte is worth
_START_BYTES = 8 << 20
_FIELD_BYTES = 65_536
_FIELDS = 32
_EXTENDED = re.compile(r";\s*filename\*\s*=\s*utf-8'[^';]*'([^;\s]*)", re.IGNORECASE)
_BOUNDARY_CHARS = 200  # 70 by the standard
_AROUND_BYTES = 1 << 20  # that a body may have besides its file


async def receive(request: Request, form: "Form", finish: Callable[[], T]) -> T:
    """What `finish` makes of the complete form. Raises RefusedError, or ClientDisconnect; neither leaves anything.

    One block is written while the next one comes; there are never more than two."""
    writing: asyncio.Future[None] | None = None

    def end(payload: list[bytes]) -> T:
        form.write(payload)
        form.complete()
        return finish()

    try:
        form.expect(request.headers.get("content-length", ""))
        async for chunk in request.stream():
            form.feed(chunk)
            if form.held >= _BUFFER_BYTES:
                if writing is not None:
                    await writing
                writing = asyncio.ensure_future(run_in_threadpool(form.write, form.take()))
        if writing is not None:
            await writing
        return await run_in_threadpool(end, form.take())
    finally:
        if writing is not None:
            writing.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody waits for it any more
        form.close()


class Form:
    """`name` is that of the field with the file; `most` gives the bytes that it may have by the fields seen so far.
    `feed` takes what comes, `take` gives what of it is to be written next. `write` and `complete` block on the disk: call
    them off the event loop, one call after the other. `close` waits for the call in hand."""

    def __init__(self, content_type: str, name: str, part: Path, most: Callable[[Mapping[str, str]], int]) -> None:
        kind, options = parse_options_header(content_type)
        boundary = options.get("boundary", "")
        if kind != "multipart/form-data" or not 0 < len(boundary) <= _BOUNDARY_CHARS:
            raise refused("Send the file as multipart/form-data, with a boundary.", None, "invalid_content_type")
        self.part = part
        self.filename: str | None = None  # None: no file yet
        self.bytes = 0
        self._parser = PushMultipartParser(boundary, max_segment_count=_FIELDS)
        self._name = name
        self._most = most
        self._read = 0
        self.held = 0  # about as many bytes of memory as what nobody has taken yet
        self._held: list[bytes] = []
        self._written = 0
        self._started = 0  # of the file, on its way to the disk
        self._lock = threading.Lock()
        self._fields: dict[str, bytearray] = {}
        self._field: bytearray | None = None  # None: what comes belongs to the file
        self._file = part.open("xb", buffering=0)

    @property
    def fields(self) -> dict[str, str]:
        return {name: value.decode(errors="replace") for name, value in self._fields.items()}

    def expect(self, content_length: str) -> None:
        """Raises RefusedError (400) where a body of that length cannot be taken."""
        if content_length.isascii() and content_length.isdigit():
            self._check(int(content_length[:20]) - _AROUND_BYTES)

    def feed(self, block: bytes) -> None:
        """Raises RefusedError (400) for a malformed body and for one that is too large."""
        if not block:
            return
        self._read += len(block)
        try:
            for event in self._parser.parse(block):
                if isinstance(event, bytes | bytearray):  # the latter by versions before 2, as copies
                    self._payload(bytes(event))
                elif event is not None:
                    self._segment(event)
        except MultipartError as error:
            raise _malformed(error) from None
        if self._read > self.bytes + _AROUND_BYTES + _FIELDS * _FIELD_BYTES:
            raise refused("The multipart body is much longer than its file.", None, "invalid_multipart")

    def take(self) -> list[bytes]:
        payload, self._held, self.held = self._held, [], 0
        return payload

    def write(self, payload: Sequence[bytes]) -> None:
        with self._lock:
            if self._file.closed:
                return
            size = sum(map(len, payload))
            written = os.writev(self._file.fileno(), payload) if payload else 0
            if written < size:
                write_all(self._file.fileno(), b"".join(payload)[written:])
            self._written += size
            if self._written - self._started >= _START_BYTES:
                _start_writing(self._file.fileno(), self._started, self._written)
                self._started = self._written

    def complete(self) -> None:
        """The body has ended, and the file is on disk. Raises RefusedError (400) where either is not so."""
        try:
            self._parser.close()
        except MultipartError as error:
            raise _malformed(error) from None
        if self.filename is None:
            raise refused(f"Missing required parameter: '{self._name}'.", self._name, "missing_required_parameter")
        self._check(self.bytes)  # by the fields after it, too
        os.fsync(self._file.fileno())

    def close(self) -> None:
        with self._lock:
            self._file.close()
            self.part.unlink(missing_ok=True)

    def _segment(self, segment: Any) -> None:  # noqa: ANN401 - multipart has no types
        if segment.name == self._name:
            if self.filename is not None:
                raise refused(f"Send one '{self._name}'.", self._name)
            self.filename = segment.filename or _extended(segment.header("Content-Disposition", ""))
            self._field = None
        else:
            self._field = self._fields[segment.name] = bytearray()

    def _payload(self, data: bytes) -> None:
        if self._field is None:
            self.bytes += len(data)
            self._check(self.bytes)
            self.held += max(len(data), _PIECE_BYTES)
            self._held.append(data)
        else:
            self._field += data
            if len(self._field) > _FIELD_BYTES:
                raise refused(f"A field is longer than {_FIELD_BYTES} bytes.", None, "invalid_multipart")

    def _check(self, size: int) -> None:
        most = self._most(self.fields)
        if size > most:
            raise refused(f"File is too large. The limit is {most} bytes.", self._name, "file_too_large")


def _start_writing(descriptor: int, start: int, stop: int) -> None:
    """Has the disk begin with what it would else get all at once, at the end, when somebody waits for it."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, start, stop - start, os.POSIX_FADV_DONTNEED)


def _malformed(error: MultipartError) -> RefusedError:
    reason = error.args[0] if error.args else type(error).__name__  # what follows is an exception of Python's
    return refused(f"The multipart body is malformed: {reason}.", None, "invalid_multipart")


def _extended(disposition: str) -> str:
    """The name that is given as `filename*=UTF-8''…` alone: a form must not, but some clients do. Empty without one."""
    found = _EXTENDED.search(disposition)
    return unquote(found[1]) if found else ""
