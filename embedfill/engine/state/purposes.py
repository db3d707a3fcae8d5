"""What an uploaded file must be: its purpose, size, expiry and first line. Where its bytes come from, others know."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from embedfill.batchapi.limits import BODY_BYTES, LOCAL
from embedfill.engine.json_text import loads
from embedfill.engine.refusal import refused
from embedfill.errors import RefusedError

PURPOSES = ("assistants", "batch", "evals", "fine-tune", "user_data", "vision")
_OTHER_BYTES = 512_000_000
_EXPIRY_S = (3_600, 2_592_000)
_BLOCK = 1 << 20


def most_bytes(purpose: str, others: int | None = None) -> int:
    """What a file of this purpose may have. `others`: what one of no special purpose may."""
    return LOCAL.file_bytes if purpose == "batch" else others or _OTHER_BYTES


def checked_purpose(purpose: object) -> str:
    """Raises RefusedError (400)."""
    if purpose is None or purpose == "":
        raise refused("Missing required parameter: 'purpose'.", "purpose", "missing_required_parameter")
    if purpose not in PURPOSES:
        raise refused(f"{str(purpose)[:100]!r} is not one of {', '.join(PURPOSES)}.", "purpose")
    return str(purpose)


def expiry(fields: Mapping[str, Any], name: str = "expires_after") -> int | None:
    """Seconds to keep a file, from `NAME[anchor]` and `NAME[seconds]`, or from one JSON value. Raises RefusedError."""
    value = fields.get(name)
    if value is None:
        bracketed = {key: fields.get(f"{name}[{key}]") for key in ("anchor", "seconds")}
        value = bracketed if any(bracketed.values()) else None
    if isinstance(value, str):
        try:
            value = loads(value)
        except orjson.JSONDecodeError:
            raise refused(f"{name} is not valid JSON.", name) from None
    if value is None:
        return None
    if not isinstance(value, dict) or value.get("anchor") != "created_at":
        raise refused(f"{name} needs the anchor 'created_at'.", f"{name}.anchor")
    seconds = str(value.get("seconds"))
    if not _is_number(seconds) or not _EXPIRY_S[0] <= int(seconds) <= _EXPIRY_S[1]:
        raise refused(f"{name}.seconds must be from {_EXPIRY_S[0]} to {_EXPIRY_S[1]}.", f"{name}.seconds")
    return int(seconds)


def _is_number(text: str) -> bool:
    return len(text) < 16 and text.isascii() and text.isdigit()  # Python refuses to read very long ones


def check_first_line(path: Path) -> None:
    """The API looks no further at upload: a bad later line is for validation to find. Raises RefusedError (400)."""
    first = _first_line(path)
    if not first:
        raise refused("The file is empty.", "file", "empty_file")
    if len(first) > BODY_BYTES:
        raise _invalid(f"longer than {BODY_BYTES} bytes")
    try:
        loads(first)
    except orjson.JSONDecodeError as error:
        raise _invalid(f"not valid JSON ({error})") from None


def _first_line(path: Path) -> bytes:
    """The first line that is not blank, as far as it may be long; empty where there is none."""
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            text = block.lstrip()
            if text:
                file.seek(-len(text), 1)
                return file.readline(BODY_BYTES + 1)
    return b""


def _invalid(what: str) -> RefusedError:
    return refused(f"Invalid file format: the first line is {what}.", "file", "invalid_file_format")
