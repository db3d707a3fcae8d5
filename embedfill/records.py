"""The nouns: frozen dataclasses that every stage passes on. No behaviour beyond their identity.

Two identities are never mixed: a *text* is what is embedded, known by the hash of its bytes; a *chunk* is a place
(document, ordinal, start, end) that refers to a text. Requests are deduplicated, rows never.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from embedfill import ids

Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Source:
    """Where a document or a rejection comes from: a file as the user named it, and the 0-based row in it."""

    file: str
    row: int


@dataclass(frozen=True, slots=True)
class Document:
    """One row of the corpus. `fields` are the column values that the template names, `metadata` goes to the hits."""

    id: str
    text: str
    metadata: Mapping[str, Scalar]
    fields: Mapping[str, str]
    source: Source


@dataclass(frozen=True, slots=True)
class ChunkSpec:
    """All that decides how a document is cut and what is embedded of it. `max_tokens` counts the rendered text with
    special tokens; `max_bytes` caps the UTF-8 bytes of the passage. `special_tokens` is what becomes of their written
    form in a text (text, reject, remove), `too_long` of values that leave the text no room (reject, truncate).
    `tokenizer_file` is where a tokenizer named by a relative path lies here; elsewhere it may lie elsewhere."""

    tokenizer: str
    max_tokens: int
    overlap: int
    format: str
    template: str
    max_bytes: int
    version: int = 1
    special_tokens: str = "text"
    too_long: str = "reject"
    tokenizer_file: str | None = None

    @property
    def id(self) -> str:
        usual = {"special_tokens": "text", "too_long": "reject"}  # left out, so that ids from before they were stay
        values = {name: value for name, value in asdict(self).items() if usual.get(name) != value}
        values.pop("tokenizer_file", None)
        return ids.digest_hex("chunkspec", ids.canonical(values))

    @property
    def tokenizer_here(self) -> str:
        """What to load it by."""
        return self.tokenizer_file or self.tokenizer


@dataclass(frozen=True, slots=True)
class Chunk:
    """A place in a document: `document.text[start:end]` is its passage; `embed` is what goes to the model."""

    ordinal: int
    start: int
    end: int
    heading: str
    passage: str
    embed: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Rejection:
    """Something that was left out (or, with the code `truncated`, only cut short): a corpus row (`source` set) or a text (`text_id` set, hexadecimal)."""

    code: str
    message: str
    document_id: str | None = None
    source: Source | None = None
    text_id: str | None = None


@dataclass(frozen=True, slots=True)
class Catalog:
    """What the corpus holds: document tables in order (a later row of a document takes the place of an earlier one),
    chunk tables, and the corpus rows that were left out. `base_rows` of the tables' rows were written whole, the
    others as changes. `conflicted` parts hold a duplicate id."""

    corpus_spec: str
    chunk_spec: str
    documents: tuple[str, ...]
    chunks: tuple[str, ...]
    rejections: str | None
    rejected: int
    count: int
    base_rows: int
    delta_rows: int
    conflicted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Space:
    """Two vectors may be compared only within one space. `origin` is the endpoint's scheme and host, or "local",
    `options` the JSON of further parameters that decide the vectors."""

    model: str
    dimensions: int
    profile: str
    origin: str
    truncation: str = "none"
    options: str = ""

    @property
    def id(self) -> str:
        values = asdict(self)
        if not self.options:  # as before there were any
            del values["options"]
        return ids.digest_hex("space", ids.canonical(values))[:16]


@dataclass(frozen=True, slots=True)
class Shard:
    """One exact batch file: which texts, in which requests. Never changes. Its rows are a Parquet object `key`.
    `tokens` are prompt tokens; `output_tokens` what its requests may generate at most, 0 for embeddings."""

    id: str
    key: str
    requests: int
    texts: int
    tokens: int
    file_bytes: int
    output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Maker:
    """Who made a claim. Death can be inferred only where `boot` and `pidns` are the observer's own."""

    boot: str
    pidns: str
    pid: int
    ticks: int


@dataclass(frozen=True, slots=True)
class Claim:
    """The intent to submit a shard, written before POST /batches. Times are the provider's seconds. One without
    `file_id` is of the synchronous endpoint: nothing can be found again of what it may have sent."""

    shard: str
    attempt: int
    file_id: str
    file_created_at: int
    tokens: int
    price_usd: float | None
    maker: Maker
    nonce: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """A provider's error for one text. `inputs` is how many texts its request held: with 1 the words are about it."""

    text_id: str
    code: str
    message: str
    inputs: int

    @property
    def alone(self) -> bool:
        return self.inputs == 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a submitted batch; settles its shard, and is the spending record. `refusals` names an object;
    `seconds` is how long the batch took by the provider's clock, None where it does not say."""

    shard: str
    attempt: int
    batch_id: str | None
    status: str
    texts: int
    vectors: int
    refused: int
    prompt_tokens: int
    cost_usd: float | None
    packs: tuple[str, ...]
    refusals: str | None = None
    anomalies: Mapping[str, int] = field(default_factory=dict)
    errors: tuple[str, ...] = ()
    completion_tokens: int = 0
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class IndexManifest:
    """A built index: what kind, how good, which files. `recall_at_10` is against exact search, on held-out rows."""

    kind: str
    rows: int
    dimensions: int
    metric: str
    recall_at_10: float
    bytes: int
    parameters: Mapping[str, Any]
    files: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Counts:
    """Totals of a published snapshot: accepted documents, their chunks, distinct texts with vectors, and rejections."""

    documents: int
    chunks: int
    texts: int
    rejected: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a published version is made of. `content` hashes all that decides it: equal content, nothing to do.
    `template` and `query_template` are those that its vectors were, and its queries are to be, embedded with."""

    content: str
    catalog: str
    space: Space
    packs: tuple[str, ...]
    index: IndexManifest
    counts: Counts
    template: str
    query_template: str
    format: int = 1


@dataclass(frozen=True, slots=True)
class Hit:
    """One search result. `score` is the cosine (higher is better); `text` is the passage `[start:end]`."""

    rank: int
    score: float
    document_id: str
    ordinal: int
    start: int
    end: int
    text: str
    metadata: Mapping[str, Scalar]
