//! The tables.

use crate::database::Schema;

/// `WRNj`, in the header of the file.
const APPLICATION_ID: i64 = 0x5752_4e6a;

/// A body stands once, in `journal`. The newest row of a key is the object, unless it is a delete: the map from keys to
/// newest rows is kept in memory, and the view `object` derives it for people, so that a write costs one row.
///
/// `journal.prev` is the row before it of the same object in the history. A deferred row is no history: it goes when the
/// object's next row is written.
const V1: &str = "
CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO meta (name, value) VALUES
    -- the time of creation, so that a database which was lost and began anew is newer, too
    ('epoch', unixepoch()),
    -- no revision above it was given out
    ('mark', 0),
    -- older history is refused
    ('floor', 0),
    -- up to here superseded rows are gone
    ('swept', 0),
    -- up to here the relay has published
    ('cursor', 0);

CREATE TABLE resource (
    id    INTEGER PRIMARY KEY,
    grp   TEXT NOT NULL,
    name  TEXT NOT NULL,
    UNIQUE (grp, name)
) STRICT;

CREATE TABLE journal (
    rv        INTEGER PRIMARY KEY,
    resource  INTEGER NOT NULL,
    namespace TEXT NOT NULL,
    name      TEXT NOT NULL,
    uid       TEXT NOT NULL,
    prev      INTEGER NOT NULL,
    -- 1 added, 2 modified, 3 deleted
    op        INTEGER NOT NULL,
    deferred  INTEGER NOT NULL,
    time_ms   INTEGER NOT NULL,
    -- a line for each stream: the stream's previous revision, a blank, the shard
    streams   TEXT NOT NULL,
    body      BLOB NOT NULL
) STRICT;

-- heads of streams whose last row is swept; those of the others stand in the journal
CREATE TABLE head (
    resource INTEGER NOT NULL,
    shard    TEXT NOT NULL,
    rv       INTEGER NOT NULL,
    PRIMARY KEY (resource, shard)
) STRICT, WITHOUT ROWID;

CREATE VIEW object AS
    SELECT resource.grp AS grp, resource.name AS resource, namespace, journal.name AS name, max(rv) AS rv, body
    FROM journal JOIN resource ON resource.id = journal.resource
    GROUP BY journal.resource, namespace, journal.name
    HAVING op <> 3;
";

pub(crate) const SCHEMA: Schema = Schema { application_id: APPLICATION_ID, migrations: &[V1] };
