//! A small file system of a test's own, in memory: making one needs root.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// More than any of these file systems has.
const FILLER_BYTES: usize = 16 << 20;

/// Unmounted when dropped; it outlives the cluster on it.
pub struct Disk(TempDir);

impl Disk {
    /// With the options of a tmpfs: `size=24m`.
    ///
    /// # Panics
    /// Where it cannot be mounted.
    pub fn mount(options: &str) -> Self {
        let dir = TempDir::with_prefix("warren-disk-").expect("a folder");
        run("mount", &["-t", "tmpfs", "-o", options, "warren-test"], dir.path());
        Self(dir)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn remount(&self, how: &str) {
        run("mount", &["-o", &format!("remount,{how}")], self.path());
    }

    /// Takes all the room that is left, with a file that is answered.
    ///
    /// # Panics
    /// Where the file system has no end.
    pub fn fill(&self) -> PathBuf {
        use std::io::Write as _;
        let path = self.path().join("somebody-elses");
        let mut file = std::fs::File::create(&path).expect("an empty file");
        let bytes = vec![1; FILLER_BYTES];
        for _ in 0..1024 {
            if let Err(full) = file.write_all(&bytes) {
                assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
                return path;
            }
        }
        panic!("{} takes everything", path.display());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        run("umount", &["-l"], self.path());
    }
}

#[track_caller]
fn run(program: &str, arguments: &[&str], path: &Path) {
    let status = Command::new(program).args(arguments).arg(path).status();
    let done = status.is_ok_and(|status| status.success());
    assert!(done, "{program} {arguments:?} {} (root may do it)", path.display());
}
