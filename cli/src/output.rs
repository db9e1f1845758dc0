//! What people see.

use std::io::{self, Write};

use serde_json::Value;

/// Writes a line to standard output. Where nobody reads any more (`warren get … | head`), the process ends as other
/// tools do, without a word.
#[macro_export]
macro_rules! say {
    ($($argument:tt)*) => {
        $crate::output::line(&format!($($argument)*))
    };
}

/// A note to the person, on standard error, beside the output proper.
#[macro_export]
macro_rules! note {
    ($($argument:tt)*) => {
        $crate::output::note(&format!($($argument)*))
    };
}

pub(crate) fn line(text: &str) {
    raw(format!("{text}\n").as_bytes());
}

#[expect(
    clippy::disallowed_methods,
    reason = "the reader of the output is gone: there is nothing to shut down for"
)]
pub(crate) fn raw(bytes: &[u8]) {
    let mut out = io::stdout().lock();
    if out.write_all(bytes).and_then(|()| out.flush()).is_err() {
        std::process::exit(1);
    }
}

pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Rows under headers, columns as wide as their widest cell, three blanks between.
#[derive(Debug, Default)]
pub(crate) struct Columns {
    widths: Vec<usize>,
}

impl Columns {
    /// The lines of these rows. Later calls keep the widths of earlier ones where they suffice, so that a watch stays
    /// aligned.
    pub(crate) fn lines(&mut self, rows: &[Vec<String>]) -> Vec<String> {
        for row in rows {
            self.widths.resize(self.widths.len().max(row.len()), 0);
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let line = |row: &Vec<String>| {
            let cells = row.iter().zip(&self.widths);
            let text: String =
                cells.map(|(cell, width)| format!("{cell:width$}   ", width = *width)).collect();
            text.trim_end().to_owned()
        };
        rows.iter().map(line).collect()
    }
}

/// A cell of a server-side table as text.
pub(crate) fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "<none>".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stay_aligned_over_calls() {
        let row = |cells: &[&str]| cells.iter().map(|c| (*c).to_owned()).collect::<Vec<_>>();
        let mut columns = Columns::default();
        assert_eq!(
            columns.lines(&[row(&["NAME", "READY"]), row(&["web-1", "1/1"])]),
            ["NAME    READY", "web-1   1/1"]
        );
        assert_eq!(columns.lines(&[row(&["w", "0/1"])]), ["w       0/1"]);
    }
}
