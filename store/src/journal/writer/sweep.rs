//! Compaction: the floor moves up, row by row, and takes the superseded rows with it.
//!
//! A row goes when the row that superseded it is below the floor, and a delete goes with its own. So every row above the
//! floor still has its predecessor, and no older row of an object can come to light when a newer one goes.

use rusqlite::Connection;
use warren_api::Shard;

use super::{Writer, set_meta};
use crate::journal::state::Heads;

/// Changes above the wanted history before compaction starts, so that it runs in strides: a sixteenth, but not more.
const MAX_SLACK: u64 = 1_000;

/// What a step has done; applied when it is on disk.
#[derive(Debug)]
pub(crate) struct Swept {
    up_to: u64,
    rows: u64,
    bytes: u64,
    /// There was less to do than the step allowed.
    finished: bool,
}

impl Writer<'_> {
    pub(crate) fn sweep_due(&self) -> bool {
        let (state, wanted) = (&self.state, self.options.history_revisions);
        state.swept < state.floor
            || state.history_bytes > self.options.outbox_bytes
            || state.history_rows > wanted.saturating_add((wanted / 16).min(MAX_SLACK))
    }

    /// Passes at most `step` rows, inside the transaction that is open.
    pub(crate) fn sweep(&mut self, step: usize) -> rusqlite::Result<Swept> {
        let state = &self.state;
        let (mut rows_left, mut bytes_left) = (state.history_rows, state.history_bytes);
        let mut swept = Swept { up_to: state.swept, rows: 0, bytes: 0, finished: true };
        let cursor = self.shared.cursor().0;
        let mut doomed = Vec::new();
        {
            let mut statement = self.connection.prepare_cached(
                "SELECT rv, prev, op, deferred, length(body) FROM journal
                 WHERE rv > ?1 AND rv <= ?2 ORDER BY rv LIMIT ?3",
            )?;
            let visible = self.shared.visible().0;
            let mut rows = statement.query((state.swept as i64, visible as i64, step as i64))?;
            while let Some(row) = rows.next()? {
                let revision = row.get::<_, i64>(0)? as u64;
                let published = revision <= cursor;
                let free = revision <= state.floor
                    || bytes_left > self.options.outbox_bytes
                    || (rows_left > self.options.history_revisions && published);
                if !free {
                    swept.finished = true;
                    break;
                }
                if !row.get::<_, bool>(3)? {
                    let bytes = row.get::<_, i64>(4)? as u64;
                    rows_left = rows_left.saturating_sub(1);
                    bytes_left = bytes_left.saturating_sub(bytes);
                    swept.rows += 1;
                    swept.bytes += bytes;
                }
                match row.get::<_, i64>(1)? {
                    0 => {}
                    prev => doomed.push(prev),
                }
                if row.get::<_, i64>(2)? == 3 {
                    doomed.push(revision as i64);
                }
                swept.up_to = revision;
                swept.finished = false;
            }
        }
        if swept.up_to > state.swept {
            let floor = state.floor.max(swept.up_to);
            // Before the rows go: a reader that misses them sees the floor.
            self.shared.raise_floor(floor);
            for revision in doomed {
                self.remove(revision)?;
            }
            set_meta(self.connection, "swept", swept.up_to)?;
            set_meta(self.connection, "floor", floor)?;
        }
        Ok(swept)
    }

    pub(crate) fn apply_swept(&mut self, swept: Swept) {
        let state = &mut self.state;
        state.swept = state.swept.max(swept.up_to);
        state.floor = state.floor.max(state.swept);
        state.history_rows = state.history_rows.saturating_sub(swept.rows);
        state.history_bytes = state.history_bytes.saturating_sub(swept.bytes);
        if swept.finished {
            self.sweeping = false;
        }
    }

    /// A stream's head stays known when its last row goes.
    fn remove(&self, revision: i64) -> rusqlite::Result<()> {
        let mut statement = self
            .connection
            .prepare_cached("DELETE FROM journal WHERE rv = ?1 RETURNING resource, streams")?;
        let mut rows = statement.query([revision])?;
        let heads = self.shared.heads.read();
        while let Some(row) = rows.next()? {
            let resource = row.get(0)?;
            for line in row.get_ref(1)?.as_str()?.split('\n') {
                let word = line.split_once(' ').map_or("", |(_, word)| word);
                let Some(shard) = Shard::of_word(word) else { continue };
                keep_head(self.connection, &heads, (resource, shard), word, revision)?;
            }
        }
        Ok(())
    }
}

fn keep_head(
    connection: &Connection,
    heads: &Heads,
    stream: (u32, Shard),
    word: &str,
    revision: i64,
) -> rusqlite::Result<()> {
    if heads.get(&stream).copied() != Some(revision as u64) {
        return Ok(());
    }
    connection
        .prepare_cached(
            "INSERT INTO head (resource, shard, rv) VALUES (?1, ?2, ?3)
             ON CONFLICT DO UPDATE SET rv = max(rv, excluded.rv)",
        )?
        .execute((stream.0, word, revision))
        .map(drop)
}
