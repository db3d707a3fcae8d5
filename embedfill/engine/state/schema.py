"""The engine's tables, as numbered steps from one format to the next. Runs nothing itself."""

_1 = """
CREATE TABLE files (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, bytes INTEGER NOT NULL, created_at INTEGER NOT NULL,
    filename TEXT NOT NULL, purpose TEXT NOT NULL, expires_at INTEGER
) STRICT;
CREATE TABLE batches (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, endpoint TEXT NOT NULL, model TEXT,
    input_file_id TEXT NOT NULL, completion_window TEXT NOT NULL, status TEXT NOT NULL, errors TEXT,
    output_file_id TEXT, error_file_id TEXT, created_at INTEGER NOT NULL, in_progress_at INTEGER,
    expires_at INTEGER NOT NULL, finalizing_at INTEGER, completed_at INTEGER, failed_at INTEGER, expired_at INTEGER,
    cancelling_at INTEGER, cancelled_at INTEGER, total INTEGER NOT NULL DEFAULT 0, completed INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0, input_tokens INTEGER NOT NULL DEFAULT 0, metadata TEXT, output_seconds INTEGER,
    idempotency_key TEXT UNIQUE, request TEXT NOT NULL
) STRICT;
CREATE INDEX batches_by_status ON batches (status, seq);
-- One row per finished line. `spool` and [start, stop) say where its result is; `runs` counts how often one was
-- recorded: 1, or 0 where the request never ran (cancelled, expired). 2 would be a line that was run again.
CREATE TABLE lines (
    batch INTEGER NOT NULL, line INTEGER NOT NULL, spool TEXT NOT NULL, start INTEGER NOT NULL, stop INTEGER NOT NULL,
    tokens INTEGER NOT NULL, runs INTEGER NOT NULL, PRIMARY KEY (batch, line)
) STRICT, WITHOUT ROWID;
"""

# Owners: '' is what was made while no key was asked for; see owners.py. Usage: what chat answers say of their tokens.
_2 = """
ALTER TABLE files ADD COLUMN owner TEXT NOT NULL DEFAULT '';
ALTER TABLE batches ADD COLUMN owner TEXT NOT NULL DEFAULT '';
ALTER TABLE batches ADD COLUMN cached_tokens INTEGER NOT NULL DEFAULT 0;
ALTER TABLE batches ADD COLUMN output_tokens INTEGER NOT NULL DEFAULT 0;
ALTER TABLE batches ADD COLUMN reasoning_tokens INTEGER NOT NULL DEFAULT 0;
-- `completed_with`: the part ids of a completed upload, as JSON.
CREATE TABLE uploads (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, bytes INTEGER NOT NULL, created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL, filename TEXT NOT NULL, purpose TEXT NOT NULL, status TEXT NOT NULL,
    file_seconds INTEGER, file_id TEXT, completed_with TEXT, owner TEXT NOT NULL
) STRICT;
CREATE TABLE upload_parts (
    id TEXT PRIMARY KEY, upload INTEGER NOT NULL, bytes INTEGER NOT NULL, created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX upload_parts_by_upload ON upload_parts (upload);
-- `enqueued_tokens` of its prompts, where they are limited. `errors_brief`: the first ones, where they are very many.
ALTER TABLE batches ADD COLUMN enqueued_tokens INTEGER NOT NULL DEFAULT 0;
ALTER TABLE batches ADD COLUMN errors_brief TEXT;
CREATE INDEX batches_by_creation ON batches (created_at);
-- What a webhook is to be told: `done_at` once it was, or was given up.
CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, url TEXT NOT NULL, body TEXT NOT NULL,
    created_at INTEGER NOT NULL, due_at REAL NOT NULL, tries INTEGER NOT NULL DEFAULT 0, done_at INTEGER
) STRICT;
CREATE INDEX events_waiting ON events (url, due_at) WHERE done_at IS NULL;
CREATE INDEX events_done ON events (done_at) WHERE done_at IS NOT NULL;
"""

STEPS = (_1, _2)
VERSION = len(STEPS)
