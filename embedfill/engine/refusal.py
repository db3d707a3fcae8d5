"""Refusals in the API's own words: what is wrong with a request, and the envelope that says so."""

from typing import Any

from embedfill.errors import RefusedError


def refused(message: str, param: str | None, code: str = "invalid_value") -> RefusedError:
    """A 400: the request itself is wrong."""
    return RefusedError(400, code, message, param=param)


def envelope(error: RefusedError) -> dict[str, Any]:
    """The body of every answer that is an error, over HTTP and in error files."""
    kind = "server_error" if error.status >= 500 else "invalid_request_error"
    if error.status == 429:
        kind = "rate_limit_error"
    return {"error": {"message": error.message, "type": kind, "param": error.param, "code": error.code}}
