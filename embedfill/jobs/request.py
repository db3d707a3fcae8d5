"""One prepared request, or the reason why a line or a row of the input is none. Checks a body, reads no file."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from embedfill.jobs.endpoints import Endpoint
from embedfill.records import Rejection, Source

NOT_EXACT = "a number that no request could carry unchanged: of 64 bits at most, and finite"


@dataclass(frozen=True, slots=True)
class Request:
    """`row` is the line or row in its file, from 1. `text` is the body as it is sent."""

    row: int
    custom_id: str
    body: Mapping[str, Any]
    text: str

    @property
    def model(self) -> str:
        return str(self.body["model"])


def too_large(value: object) -> bool:
    """Whether it is, or holds, a number that would be another one on its way: no finite one, or one of over 64 bits."""
    if isinstance(value, dict):
        return any(map(too_large, value.values()))
    if isinstance(value, list):
        return any(map(too_large, value))
    if isinstance(value, float):
        return not math.isfinite(value)
    return isinstance(value, int) and not -(2**63) <= value < 2**64


def rejection(file: str, row: int, custom_id: object, code: str, message: str) -> Rejection:
    """Also a name that is a number is told, though it is none: it says which request was meant."""
    name = str(custom_id) if isinstance(custom_id, str | int | float) and custom_id != "" else None
    return Rejection(code, message, name, Source(file, row))


def fault(custom_id: object, body: object, endpoint: Endpoint) -> tuple[str, str] | None:
    """Why a provider would refuse the whole file for this request: a code, and words that say what to do."""
    if custom_id is None or custom_id == "":
        return "no_custom_id", "there is no custom_id: give the request a name of its own"
    if not isinstance(custom_id, str):
        return "no_custom_id", f"custom_id is {custom_id!r:.80}: write it as a string"
    if not isinstance(body, dict):
        return "no_body", "there is no body: it must be a JSON object with the model and what is asked of it"
    if not isinstance(body.get("model"), str) or not body["model"]:
        return "no_model", "body.model is missing: name the model in each request"
    if body.get(endpoint.asks) in (None, "", []) and not (endpoint.asks == "input" and body.get("prompt")):
        return f"no_{endpoint.asks}", f"body.{endpoint.asks} is missing or empty: {endpoint.path} needs it"
    if body.get("stream"):
        return "streaming_unsupported", "a batch cannot stream: take body.stream out"
    return None
