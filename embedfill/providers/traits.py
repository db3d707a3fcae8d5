"""What a provider's files can do, by trying: whether they are listed, deleted, and given from the middle on."""

import itertools
from typing import Any

import httpx

from embedfill.errors import ProviderError, RefusedError, UnreachableError
from embedfill.providers.client import BatchClient

_LOOK_AT = 1000  # files of a listing, newest first


def lists_file(client: BatchClient, file_id: str) -> bool:
    """Whether the listing of batch files has this one."""
    try:
        return any(file.id == file_id for file in itertools.islice(client.files(), _LOOK_AT))
    except UnreachableError:
        raise
    except ProviderError:  # there is no such listing, or it makes no sense
        return False


def deletes(client: BatchClient, file_id: str) -> bool:
    """Deletes a file; whether it is gone then."""
    try:
        client.delete_file(file_id)
        client.file(file_id)
    except RefusedError as error:
        return error.status == 404
    except UnreachableError:
        raise
    except ProviderError:
        return False
    return False


def ranges(client: BatchClient, file_id: str, whole: bytes) -> dict[str, Any]:
    """What a broken download can go on by: `range`, `strong_etag`, and `if_range` (None where ranges are not given).
    `whole` is the file's content."""
    answer = _content(client, file_id, Range="bytes=1-")
    etag = answer.headers.get("etag", "") if answer else ""
    tags = {"strong_etag": etag.startswith('"')}
    if answer is None or not _is_rest(answer, whole):
        return {"range": False, "if_range": None, **tags}
    same = _content(client, file_id, Range="bytes=1-", **{"If-Range": etag}) if tags["strong_etag"] else None
    other = _content(client, file_id, Range="bytes=1-", **{"If-Range": '"of-another-file"'})
    honours = same is not None and _is_rest(same, whole) and other is not None and other.content == whole
    return {"range": True, "if_range": honours, **tags}


def _content(client: BatchClient, file_id: str, **headers: str) -> httpx.Response | None:
    """None where it was refused."""
    sent = {"Accept": "application/binary", "Accept-Encoding": "identity", **headers}
    try:
        return client.once("GET", f"/files/{file_id}/content", headers=sent, follow_redirects=True)
    except RefusedError:
        return None


def _is_rest(answer: httpx.Response, whole: bytes) -> bool:
    says = answer.headers.get("content-range", "")
    return answer.status_code == 206 and answer.content == whole[1:] and says.startswith("bytes 1-")
