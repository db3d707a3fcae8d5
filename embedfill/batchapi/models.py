"""The objects of the Files + Batches API as pydantic models: File, Batch, and what they hold. Unknown keys are kept
out of the way, missing ones get the API's defaults, and times may be written in any usual way, since servers differ."""

import math
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
EMBEDDINGS = "/v1/embeddings"
ENDPOINTS = (EMBEDDINGS, "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/moderations")
BatchStatus = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]
_SPELLINGS = {"canceled": "cancelled", "canceling": "cancelling"}


def _seconds(value: object) -> object:
    """Seconds since 1970 from a number, or from an ISO 8601 time; one that names no zone is taken for UTC."""
    if isinstance(value, float) and math.isfinite(value):
        return int(value)
    if not isinstance(value, str):
        return value
    if value.isascii() and value.isdigit():
        return int(value)
    stamp = datetime.fromisoformat(value)
    return int((stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)).timestamp())


def _seconds_if_any(value: object) -> object:
    """None for words that name no time: it is not worth losing sight of a batch for."""
    try:
        return _seconds(value)
    except ValueError:
        return None


Seconds = Annotated[int, BeforeValidator(_seconds)]
MaybeSeconds = Annotated[int | None, BeforeValidator(_seconds_if_any)]


class _Wire(BaseModel):
    model_config = ConfigDict(extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, values: object) -> object:
        """Some servers send null for a count, a list or a detail."""
        return (
            {key: value for key, value in values.items() if value is not None} if isinstance(values, dict) else values
        )


class File(_Wire):
    id: str
    object: Literal["file"] = "file"
    bytes: int = 0
    created_at: Seconds = 0
    filename: str = ""
    purpose: str = "batch"
    status: str = "processed"
    expires_at: MaybeSeconds = None
    status_details: str | None = None


class BatchError(_Wire):
    code: str | None = None
    message: str | None = None
    param: str | None = None
    line: int | None = None


class BatchErrors(_Wire):
    object: str = "list"
    data: list[BatchError] = []


class RequestCounts(_Wire):
    total: int = 0
    completed: int = 0
    failed: int = 0


class InputDetails(_Wire):
    cached_tokens: int = 0


class OutputDetails(_Wire):
    reasoning_tokens: int = 0


class Usage(_Wire):
    input_tokens: int = 0
    input_tokens_details: InputDetails = Field(default_factory=InputDetails)
    output_tokens: int = 0
    output_tokens_details: OutputDetails = Field(default_factory=OutputDetails)
    total_tokens: int = 0


class Batch(_Wire):
    id: str
    object: Literal["batch"] = "batch"
    endpoint: str = EMBEDDINGS
    model: str | None = None
    errors: BatchErrors | None = None
    input_file_id: str
    completion_window: str = "24h"
    status: str
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: Seconds
    in_progress_at: MaybeSeconds = None
    expires_at: MaybeSeconds = None
    finalizing_at: MaybeSeconds = None
    completed_at: MaybeSeconds = None
    failed_at: MaybeSeconds = None
    expired_at: MaybeSeconds = None
    cancelling_at: MaybeSeconds = None
    cancelled_at: MaybeSeconds = None
    request_counts: RequestCounts | None = None
    usage: Usage | None = None
    metadata: dict[str, Any] | None = None

    @field_validator("status")
    @classmethod
    def _one_spelling(cls, value: str) -> str:
        return _SPELLINGS.get(value.lower(), value.lower())

    @field_validator("errors", mode="before")
    @classmethod
    def _a_list_of_errors(cls, value: Any) -> Any:  # noqa: ANN401 - `object` is a field here
        """Some servers send the bare list, or words."""
        if isinstance(value, str):
            value = [{"message": value}] if value else []
        return {"data": value} if isinstance(value, list) else value

    @field_validator("metadata", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:  # noqa: ANN401
        """What is no table of pairs holds no mark of ours."""
        return value if isinstance(value, dict) else None

    @property
    def seconds(self) -> float | None:
        """How long it took by the provider's stamps; None where one is missing, or they make no sense."""
        ends = (self.completed_at, self.expired_at, self.cancelled_at, self.failed_at)
        end = next((stamp for stamp in ends if stamp), None)
        return float(end - self.created_at) if end is not None and end >= self.created_at > 0 else None

    @property
    def ended(self) -> bool:
        return self.status in ENDED


class Page(_Wire):
    """One page of a listing of batches or files, newest first."""

    object: Literal["list"] = "list"
    data: list[Any]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool = False
