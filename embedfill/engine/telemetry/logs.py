"""Structured logs on stderr: events with fields, one line each, as text or JSON. Never given a header, a body or a query.

Whatever a field holds, a line stays one line: control characters are escaped, and what looks like a key is starred.
"""

import json
import logging
import re
import secrets
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import cache
from typing import IO, Any, Literal

from embedfill.masks import HIDDEN, masked, public

LOG = logging.getLogger("embedfill.engine")
REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")  # of the request that this thread or task serves
_MOST_CHARS = 500
_PLAIN = re.compile(r"[\w./:@{}*?+,\[\]-]+", re.ASCII)
_CREDENTIALS = re.compile(r"\b(Bearer|Basic)\s+[^\s'\"]+", re.IGNORECASE)
_KEY = re.compile(r"\b((sk|pk|pa|rk)-[\w-]{8,}|(hf|ghp|gho|github_pat)_\w{8,}|eyJ[\w.-]{8,}|AKIA\w{8,})")
_SUSPECT = re.compile(r"://|bearer|basic|(sk|pk|pa|rk)-|(hf|ghp|gho|github_pat)_|eyJ|AKIA", re.IGNORECASE)


def configure(form: Literal["text", "json"], level: str, stream: IO[str] | None = None) -> None:
    """Sends every log of this process, the libraries' too, through one formatter. `level` is ours: of the libraries
    only warnings are of use."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(Json() if form == "json" else Text())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.captureWarnings(True)
    LOG.setLevel(level.upper())


def new_request_id() -> str:
    return "req_" + secrets.token_hex(16)


def debug(event: str, **fields: object) -> None:
    _log(logging.DEBUG, event, fields)


def info(event: str, **fields: object) -> None:
    _log(logging.INFO, event, fields)


def warning(event: str, **fields: object) -> None:
    _log(logging.WARNING, event, fields)


def error(event: str, failure: BaseException | None = None, **fields: object) -> None:
    """With the traceback of `failure`."""
    _log(logging.ERROR, event, fields, failure)


def _log(level: int, event: str, fields: dict[str, object], failure: BaseException | None = None) -> None:
    if LOG.isEnabledFor(level):
        LOG.log(level, event, extra={"fields": fields}, exc_info=failure)


class Text(logging.Formatter):
    """`2026-11-22T17:08:07.123Z INFO request method=GET path=/v1/files status=200`; a traceback stands indented below."""

    def format(self, record: logging.LogRecord) -> str:
        when, level, event, fields = _parts(record)
        trace = str(fields.pop("trace", ""))
        words = [when, level.upper(), _escaped(event), *(f"{name}={_word(value)}" for name, value in fields.items())]
        return " ".join(words) + "".join(f"\n    {_escaped(line)}" for line in trace.splitlines())


class Json(logging.Formatter):
    """One object a line: time, level, event, then the fields. In ASCII: there are more line ends than JSON escapes."""

    def format(self, record: logging.LogRecord) -> str:
        when, level, event, fields = _parts(record)
        return json.dumps({"time": when, "level": level, "event": event, **fields})


def _parts(record: logging.LogRecord) -> tuple[str, str, str, dict[str, Any]]:
    """Time, level, event and fields of a record. What a library says is an event with its logger's name."""
    when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    given = getattr(record, "fields", None)
    found = {name: _safe(name, value) for name, value in (given or {}).items() if value is not None}
    if given is None:
        found["logger"] = record.name
    if request_id := REQUEST_ID.get():
        found.setdefault("request_id", request_id)
    if record.exc_info:
        trace = logging.Formatter().formatException(record.exc_info)
        found["trace"] = "\n".join(map(_scrubbed, trace.splitlines()))
    return when, record.levelname.lower(), _scrubbed(record.getMessage()).strip(), found


def _safe(name: str, value: object) -> object:
    """A value that JSON can hold, and anybody may see."""
    if isinstance(value, bool | int | float):
        return value
    return HIDDEN if _is_secret(name) else _scrubbed(str(value))


@cache
def _is_secret(name: str) -> bool:
    return masked(name, "value") == HIDDEN


def _scrubbed(text: str) -> str:
    """Without keys, and without the user info and queries of URLs; UTF-8 in any case. Cut first: the patterns take the
    square of what they look through."""
    text = text[:_MOST_CHARS].encode("utf-8", "backslashreplace").decode()
    if not _SUSPECT.search(text):
        return text
    return _KEY.sub(HIDDEN, _CREDENTIALS.sub(rf"\1 {HIDDEN}", public(text)))


def _word(value: object) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


def _escaped(text: str) -> str:
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
