"""One download: to a part file, resumed with Range where the provider's ETag is strong, and checked for its size."""

from pathlib import Path

import httpx

from embedfill.errors import ProviderError, UnreachableError
from embedfill.masks import public
from embedfill.providers.retry import refusal

_BLOCK = 1 << 20


def download(http: httpx.Client, url: str, path: Path, size: int) -> None:
    """Streams `url` to `path`, whole or not at all. What an earlier try left in the part file is gone on from.

    `size` is the file's length as the provider states it (0: not stated). Raises UnreachableError when the
    connection ends early (try again: it resumes), ProviderError when the sizes do not agree.
    """
    part, tag = path.with_name(path.name + ".part"), path.with_name(path.name + ".etag")
    if size and part_bytes(path) == size:
        _finish(path, part, tag)
        return
    try:
        expected = _stream(http, url, part, tag)
    except httpx.HTTPError as error:
        raise UnreachableError(
            f"the download of {public(url)} broke off: {public(str(error))}", "run again: it goes on from there"
        ) from error
    got = part.stat().st_size
    wanted = size or expected
    if wanted is not None and got < wanted:
        raise UnreachableError(f"the download of {public(url)} ended after {got:,} of {wanted:,} bytes", "run again")
    if wanted is not None and got > wanted:
        part.unlink()
        raise ProviderError(f"{public(url)} gave {got:,} bytes where the provider names {wanted:,}")
    _finish(path, part, tag)


def part_bytes(path: Path) -> int:
    """How much of a download to `path` is there so far."""
    part = path.with_name(path.name + ".part")
    return part.stat().st_size if part.exists() else 0


def _finish(path: Path, part: Path, tag: Path) -> None:
    part.replace(path)
    tag.unlink(missing_ok=True)


def _stream(http: httpx.Client, url: str, part: Path, tag: Path) -> int | None:
    """Appends to the part file; returns the whole file's length by this answer's headers."""
    have, etag = _resumable(part, tag)
    headers = {"Accept": "application/binary", "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": etag}
    with http.stream("GET", url, headers=headers, follow_redirects=True) as response:
        if response.status_code == 416:
            part.unlink(missing_ok=True)
            raise UnreachableError(f"{public(url)} does not go on from byte {have:,}", "run again: it starts anew")
        if not response.is_success:
            response.read()
            raise refusal(response)
        resumed = response.status_code == 206 and _goes_on(response, have, etag)
        if response.status_code == 206 and not resumed:
            part.unlink(missing_ok=True)
            raise UnreachableError(f"{public(url)} answered another range than was asked", "run again: it starts anew")
        with part.open("ab" if resumed else "wb", _BLOCK) as file:
            if not resumed:  # only once the old bytes are gone may the new tag stand beside them
                _keep_tag(tag, response.headers.get("etag", ""))
            for block in response.iter_raw():  # as they come: what is held back when the connection ends is lost
                file.write(block)
        length = response.headers.get("content-length")
        return int(length) + (have if resumed else 0) if length else None


def _resumable(part: Path, tag: Path) -> tuple[int, str]:
    """Bytes that are there and the strong ETag they belong to; (0, "") where the download must start anew."""
    if part.exists() and tag.exists() and (etag := tag.read_text()):
        return part.stat().st_size, etag
    return 0, ""


def _keep_tag(tag: Path, etag: str) -> None:
    if etag.startswith('"'):
        tag.write_text(etag)
    else:
        tag.unlink(missing_ok=True)


def _goes_on(response: httpx.Response, have: int, etag: str) -> bool:
    """Whether a 206 begins at byte `have` of the very file that we have the beginning of."""
    unit, _, rest = response.headers.get("content-range", "").partition(" ")
    return bool(have) and unit == "bytes" and rest.startswith(f"{have}-") and response.headers.get("etag", etag) == etag
