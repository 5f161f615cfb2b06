//! The tables, and why they are keyed so.
//!
//! What every append writes is keyed by integers that only grow (a log's entries are adjacent, streams are numbered as
//! they begin), so a batch touches the right edge of a few trees and the write-ahead log stays short. An idempotency key
//! is found through its entry; only one that is scoped to another stream than its entry's says which. Two things are keyed
//! by bytes: projection rows, whose order is their callers' business, and shared bytes, which are rare. Entries,
//! checkpoints and tiles have triggers against change: no wall against an intruder, but none of our own mistakes passes.
//!
//! A change of the tables raises [`SCHEMA_VERSION`] and adds a step to [`STEPS`]; a program refuses a newer folder.

/// Version of the tables that this program writes (`PRAGMA user_version`).
pub const SCHEMA_VERSION: i64 = 1;

/// Marks the file as a ledger database (`PRAGMA application_id`): `CSLG`.
pub(crate) const APPLICATION_ID: i64 = 0x4353_4c47;

/// What brings a database of version `i` to version `i + 1`.
pub(crate) const STEPS: [&str; 1] = [r"
CREATE TABLE lease (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    epoch INTEGER NOT NULL
) STRICT;
INSERT INTO lease VALUES (1, 0);

CREATE TABLE log (
    number INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    org BLOB NOT NULL UNIQUE,
    epoch INTEGER NOT NULL,
    size INTEGER NOT NULL,
    root BLOB NOT NULL,
    newest INTEGER NOT NULL
) STRICT;

CREATE TABLE stream (
    number INTEGER PRIMARY KEY,
    log INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    id BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX stream_name ON stream (id, kind, log);

CREATE TABLE entry (
    key INTEGER PRIMARY KEY,
    stream INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    leaf BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX entry_stream ON entry (stream, sequence);

CREATE TABLE payload (
    key INTEGER PRIMARY KEY,
    digest BLOB NOT NULL,
    bytes BLOB NOT NULL
) STRICT;

CREATE TABLE blob (
    log INTEGER NOT NULL,
    digest BLOB NOT NULL,
    bytes BLOB NOT NULL,
    PRIMARY KEY (log, digest)
) STRICT, WITHOUT ROWID;

CREATE TABLE idempotency (
    entry INTEGER PRIMARY KEY,
    scope INTEGER,
    principal BLOB NOT NULL,
    key BLOB NOT NULL,
    request BLOB NOT NULL,
    at INTEGER NOT NULL,
    answer BLOB NOT NULL
) STRICT;
CREATE INDEX idempotency_scope ON idempotency (scope) WHERE scope IS NOT NULL;

CREATE TABLE view_name (
    number INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE view (
    log INTEGER NOT NULL,
    name INTEGER NOT NULL,
    key BLOB NOT NULL,
    columns BLOB NOT NULL,
    PRIMARY KEY (log, name, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE tile (
    key INTEGER PRIMARY KEY,
    root BLOB NOT NULL,
    hashes BLOB NOT NULL
) STRICT;

CREATE TABLE checkpoint (
    key INTEGER PRIMARY KEY,
    note TEXT NOT NULL
) STRICT;

CREATE TRIGGER entry_stays BEFORE UPDATE ON entry BEGIN SELECT RAISE(ABORT, 'entries are never changed'); END;
CREATE TRIGGER entry_remains BEFORE DELETE ON entry BEGIN SELECT RAISE(ABORT, 'entries are never deleted'); END;
CREATE TRIGGER tile_stays BEFORE UPDATE ON tile BEGIN SELECT RAISE(ABORT, 'tiles are never changed'); END;
CREATE TRIGGER tile_remains BEFORE DELETE ON tile BEGIN SELECT RAISE(ABORT, 'tiles are never deleted'); END;
CREATE TRIGGER checkpoint_stays BEFORE UPDATE ON checkpoint
    BEGIN SELECT RAISE(ABORT, 'checkpoints are never changed'); END;
CREATE TRIGGER checkpoint_remains BEFORE DELETE ON checkpoint
    BEGIN SELECT RAISE(ABORT, 'checkpoints are never deleted'); END;
CREATE TRIGGER log_remains BEFORE DELETE ON log BEGIN SELECT RAISE(ABORT, 'logs are never deleted'); END;
"];
