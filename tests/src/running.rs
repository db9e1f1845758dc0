//! Programs that go on beside a test.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command};

/// A program that goes on until dropped.
pub struct Running {
    child: Child,
    path: PathBuf,
}

impl Running {
    /// Its output, of both kinds, goes to a file.
    pub(crate) fn start(command: &mut Command, path: PathBuf) -> Self {
        let file = File::create(&path).expect("a file for the output");
        command.stdout(file.try_clone().expect("the file can be shared")).stderr(file);
        Self { child: command.spawn().expect("the program can be started"), path }
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// Types this on its standard input, where it has one.
    ///
    /// # Panics
    /// Where it reads nothing.
    pub fn say(&mut self, text: &str) {
        let stdin = self.child.stdin.as_mut().expect("it has a standard input");
        stdin.write_all(text.as_bytes()).expect("it reads its standard input");
    }

    pub fn output(&self) -> String {
        std::fs::read_to_string(&self.path).unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
