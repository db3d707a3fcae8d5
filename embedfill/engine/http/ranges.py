"""The headers of a request for parts of a file, and for one that it may have already (RFC 9110, 13 and 14).

A Range that nobody could follow is as good as none; of several, those that lie outside of the file are left out.
"""

import re

_RANGES = re.compile(r"bytes=\s*(.*)", re.IGNORECASE)
_ONE = re.compile(r"(\d*)-(\d*)")
_MOST_CHARS = 4_000
_DIGITS = 18


def readable(header: str, size: int) -> str | None:
    """The ranges of a header that a file of `size` bytes can serve, as one to be served; as they were asked for where it
    can serve none (that is a 416). None: the header says nothing, and the whole file is to be sent."""
    found = _RANGES.fullmatch(header.strip())
    asked = [_parse(text.strip()) for text in found[1].split(",") if text.strip()] if found else []
    if not asked or None in asked or len(header) > _MOST_CHARS:
        return None
    held = [f"{first}-{last}" for pair in asked if pair and (placed := _place(*pair, size)) for first, last in [placed]]
    return "bytes=" + (",".join(held) or f"{size}-")


def matches(header: str, etag: str) -> bool:
    """Whether a list of entity tags has this one, or any; weak ones count."""
    return any(tag.strip().removeprefix("W/") in (etag, "*") for tag in header.split(","))


def _parse(text: str) -> tuple[str, str] | None:
    """First and last byte as they were written; None for what is no range."""
    found = _ONE.fullmatch(text)
    if not found or not text.isascii() or max(map(len, found.groups())) > _DIGITS:
        return None
    first, last = found.groups()
    if (not first and not last) or (first and last and int(last) < int(first)):
        return None
    return first, last


def _place(first: str, last: str, size: int) -> tuple[int, int] | None:
    """First and last byte in the file; None for a range outside of it."""
    start = int(first) if first else max(size - int(last), 0)
    stop = min(int(last), size - 1) if first and last else size - 1
    return (start, stop) if start <= stop else None
