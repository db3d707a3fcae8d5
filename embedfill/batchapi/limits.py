"""What a provider allows per file, batch, request and account. Data; the planner and the engine read it."""

from dataclasses import dataclass

# What the engine reads at all, whoever asks: these bound its memory, and stand for no provider's rules.
BODY_BYTES = 64 << 20  # of a JSON body, and so of a line in a batch file: parsed it takes several times as much
JSON_DEPTH = 100  # of lists and objects in each other


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
    batches_per_hour: int | None = None
    output_bytes: int = 512_000_000  # of an output file, by our estimate: what a download can still be resumed for


OPENAI = Limits(batches_per_hour=2_000)
# The engine's own models are small and its outputs stay on this machine.
LOCAL = Limits(request_tokens=10_000_000, enqueued_requests=None)
# The tokens of a request are those of its largest models; the smaller ones take more. That its file limits count lines
# and inputs alike, and that nothing limits what is enqueued, is not documented.
VOYAGE = Limits(
    file_bytes=1_000_000_000, batch_requests=100_000, batch_inputs=100_000, request_inputs=1_000,
    request_tokens=120_000, input_tokens=32_000, enqueued_requests=None,
)  # fmt: skip
# 10 texts of 8,192 tokens each is all that a request may hold. A file may have 500 MB by its documents; the limit of
# inputs to a batch is not documented and taken from the API that it follows.
DASHSCOPE = Limits(request_inputs=10, request_tokens=81_920, enqueued_requests=None)
# 200 MB and 50,000 requests are documented, what a request may hold is not.
DOUBLEWORD = Limits(enqueued_requests=None)
