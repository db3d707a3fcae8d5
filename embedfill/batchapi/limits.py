"""What a provider allows per file, batch, request and account. Data; the planner and the engine read it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, counts, and tokens. None means: no limit known."""

    file_bytes: int = 200_000_000
    batch_requests: int = 50_000
    batch_inputs: int = 50_000
    request_inputs: int = 2_048
    request_tokens: int = 300_000
    input_tokens: int = 8_192
    metadata_pairs: int = 16
    metadata_key_chars: int = 64
    metadata_value_chars: int = 512
    list_page: int = 100
    enqueued_requests: int | None = 1_000_000  # of one model, waiting or running at once; not documented
    output_bytes: int = 512_000_000  # of an output file, by our estimate: what a download can still be resumed for


OPENAI = Limits()
# The engine's own models are small and its outputs stay on this machine.
LOCAL = Limits(request_tokens=10_000_000, enqueued_requests=None)
VOYAGE = Limits(
    file_bytes=1_000_000_000, batch_requests=100_000, batch_inputs=100_000, request_inputs=1_000,
    request_tokens=120_000, input_tokens=32_000,
)  # fmt: skip
DASHSCOPE = Limits(request_inputs=10)
