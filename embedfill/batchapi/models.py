"""The objects of the Files + Batches API as pydantic models: File, Batch, and what they hold. Unknown keys are kept
out of the way, missing ones get the API's defaults, since servers differ."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
EMBEDDINGS = "/v1/embeddings"
ENDPOINTS = (EMBEDDINGS, "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/moderations")
BatchStatus = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]


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
    created_at: int = 0
    filename: str = ""
    purpose: str = "batch"
    status: str = "processed"
    expires_at: int | None = None
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
    created_at: int
    in_progress_at: int | None = None
    expires_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: RequestCounts | None = None
    usage: Usage | None = None
    metadata: dict[str, Any] | None = None

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
