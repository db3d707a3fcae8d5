"""Documents to rows of chunks, in Arrow. Runs in worker processes: what goes in and what comes out can be pickled."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from embedfill import ids
from embedfill.chunker.splitter import Draft, Splitter
from embedfill.records import Chunk, ChunkSpec, Document, Rejection

TEMPLATE_TOO_LONG = "template_too_long"

CHUNK_SCHEMA = pa.schema(
    [
        pa.field("version", ids.ID_TYPE, nullable=False),
        pa.field("ordinal", pa.int32(), nullable=False),
        pa.field("start", pa.int64(), nullable=False),
        pa.field("end", pa.int64(), nullable=False),
        pa.field("heading", pa.string(), nullable=False),
        pa.field("text_id", ids.ID_TYPE, nullable=False),
        pa.field("text", pa.string(), nullable=False),  # the passage
        pa.field("embed", pa.string()),  # what goes to the model; null where it is the passage itself
        pa.field("tokens", pa.int32(), nullable=False),  # of what goes to the model, special tokens included
    ]
)


@dataclass(frozen=True)
class ChunkedBatch:
    """Chunks of some documents, as CHUNK_SCHEMA, and the documents that could not be chunked."""

    rows: pa.RecordBatch
    rejections: list[Rejection]


def document_version(document: Document, spec: ChunkSpec) -> bytes:
    """The id of all that chunking sees of a document. Neither its id nor its metadata: equal documents share chunks."""
    return ids.digest("document", _spec_id(spec), document.text.encode(), ids.canonical(dict(document.fields)))


def chunk_documents(documents: Sequence[Document], spec: ChunkSpec) -> ChunkedBatch:
    """The chunks of `documents`, in order. Equal documents (of one version) are chunked once and give their rows once.

    Raises ConfigError for a wrong template or an unknown tokenizer.
    """
    splitter = _splitter(spec)
    versions = [document_version(document, spec) for document in documents]
    first = dict(zip(reversed(versions), reversed(documents)))  # the first of equal ones stays
    chunks = dict(zip(first, _chunk(list(first.values()), splitter)))
    rejections = [
        _rejection(document, spec) for document, version in zip(documents, versions) if chunks[version] is None
    ]
    return ChunkedBatch(_rows([(version, chunks[version] or []) for version in dict.fromkeys(versions)]), rejections)


def _chunk(documents: Sequence[Document], splitter: Splitter) -> list[list[Chunk] | None]:
    """The chunks of each document; the short ones are counted together, which is much faster than one by one."""
    drafts = [splitter.whole(document.text, document.fields) for document in documents]
    counts = iter(splitter.count([draft.embed for draft in drafts if draft is not None]))
    return [
        _finish(document, draft, next(counts) if draft is not None else 0, splitter)
        for document, draft in zip(documents, drafts)
    ]


def _finish(document: Document, draft: Draft | None, tokens: int, splitter: Splitter) -> list[Chunk] | None:
    if draft is not None and tokens <= splitter.spec.max_tokens:
        return [draft.chunk(0, tokens)] if splitter.says(draft.passage) else []
    return splitter.split(document.text, document.fields)


def _rows(versions: Sequence[tuple[bytes, list[Chunk]]]) -> pa.RecordBatch:
    chunks = [chunk for _, group in versions for chunk in group]
    columns = [
        [version for version, group in versions for _ in group],
        [chunk.ordinal for chunk in chunks],
        [chunk.start for chunk in chunks],
        [chunk.end for chunk in chunks],
        [chunk.heading for chunk in chunks],
        [ids.text_id(chunk.embed) for chunk in chunks],
        [chunk.passage for chunk in chunks],
        [None if chunk.embed == chunk.passage else chunk.embed for chunk in chunks],
        [chunk.tokens for chunk in chunks],
    ]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, CHUNK_SCHEMA)]
    return pa.RecordBatch.from_arrays(arrays, schema=CHUNK_SCHEMA)


def _rejection(document: Document, spec: ChunkSpec) -> Rejection:
    message = (
        f"the template {spec.template!r} with this document's values leaves too little of {spec.max_tokens} tokens to "
        "the text: shorten the columns that it names, or raise chunking.max_tokens"
    )
    return Rejection(TEMPLATE_TOO_LONG, message, document.id, document.source)


@functools.lru_cache(maxsize=8)
def _splitter(spec: ChunkSpec) -> Splitter:
    return Splitter(spec)


@functools.lru_cache(maxsize=8)
def _spec_id(spec: ChunkSpec) -> bytes:
    return spec.id.encode()
