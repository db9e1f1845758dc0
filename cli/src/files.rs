//! Where things lie (docs/architecture.md section 9), and files that appear whole or not at all.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The data folder and the paths in it.
#[derive(Clone, Debug)]
pub(crate) struct DataDir(PathBuf);

impl DataDir {
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        // Paths from here end up in mounts and unit files, where a relative one means something else.
        Self(std::path::absolute(&path).unwrap_or(path))
    }

    /// `/var/lib/warren` for root, `$XDG_DATA_HOME/warren` or `~/.local/share/warren` for others.
    pub(crate) fn default_path() -> PathBuf {
        if rustix::process::geteuid().is_root() {
            return "/var/lib/warren".into();
        }
        let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share"));
        std::env::var_os("XDG_DATA_HOME")
            .filter(|path| !path.is_empty())
            .map(PathBuf::from)
            .or_else(home)
            // Not to be written without root, which is then said: keys have no place in a folder that is everybody's.
            .unwrap_or_else(|| "/var/lib".into())
            .join("warren")
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn pki(&self) -> PathBuf {
        self.0.join("pki")
    }

    pub(crate) fn kubeconfig(&self, identity: &str) -> PathBuf {
        self.0.join("kubeconfig").join(format!("{identity}.conf"))
    }

    pub(crate) fn broker(&self) -> PathBuf {
        self.0.join("broker")
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.0.join("server/warren.db")
    }

    pub(crate) fn run(&self) -> PathBuf {
        self.0.join("run")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.0.join("log")
    }

    pub(crate) fn manifests(&self) -> PathBuf {
        self.0.join("manifests")
    }

    /// Makes the folder and proves that it can be written, so that a read-only one is named at once and not by the
    /// first of many parts that trips over it.
    pub(crate) fn prepare(&self) -> Result<()> {
        make_dir(&self.0)?;
        let probe = self.0.join(format!(".probe-{}", std::process::id()));
        let written = fs::write(&probe, b"");
        let _ = fs::remove_file(&probe);
        written.with_context(|| {
            format!(
                "data folder {}: cannot be written; name another with --data-dir",
                self.0.display()
            )
        })
    }
}

/// Makes a folder and its parents, readable by the owner alone where it is new.
pub(crate) fn make_dir(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("folder {}: cannot be made", path.display()))
}

/// Writes a file in one step: a reader, and a machine that loses power, see the old content or the new. The file is the
/// owner's alone (0600).
pub(crate) fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    write_atomically(path, content, 0o600)
}

pub(crate) fn write_atomically(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let Some((dir, name)) = path.parent().zip(path.file_name()) else {
        bail!("{}: not a path of a file", path.display());
    };
    make_dir(dir)?;
    let temporary = dir.join(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    let write = || -> io::Result<()> {
        let _ = fs::remove_file(&temporary);
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        fs::File::open(dir)?.sync_all()
    };
    write()
        .inspect_err(|_| drop(fs::remove_file(&temporary)))
        .with_context(|| format!("{}: cannot be written", path.display()))
}

/// The content, `None` where there is no such file.
pub(crate) fn read_optional(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("{}: cannot be read", path.display())),
    }
}

/// Holds a lock on a file as long as it lives; the lock goes with the process, however that ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: fs::File,
}

impl Lock {
    /// Waits for whoever holds it. Locks here are held for milliseconds.
    pub(crate) fn wait(path: &Path) -> Result<Self> {
        Self::take(path, rustix::fs::FlockOperation::LockExclusive)
    }

    /// Answers at once; an error of kind `WouldBlock` is somewhere in the chain where another holds it.
    pub(crate) fn try_now(path: &Path) -> Result<Self> {
        Self::take(path, rustix::fs::FlockOperation::NonBlockingLockExclusive)
    }

    fn take(path: &Path, how: rustix::fs::FlockOperation) -> Result<Self> {
        if let Some(dir) = path.parent() {
            make_dir(dir)?;
        }
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .with_context(|| format!("{}: cannot be opened", path.display()))?;
        rustix::fs::flock(&file, how)
            .map_err(io::Error::from)
            .with_context(|| format!("{}: is held by another process", path.display()))?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn writes_are_whole_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        write_private(&path, b"one").unwrap();
        write_private(&path, b"two").unwrap();
        assert_eq!(read_optional(&path).unwrap().as_deref(), Some("two"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path().join("a")).unwrap().count(), 1, "nothing is left over");
        assert_eq!(read_optional(&dir.path().join("none")).unwrap(), None);
    }

    #[test]
    fn a_lock_is_held_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = Lock::try_now(&path).unwrap();
        assert!(Lock::try_now(&path).is_err());
        drop(held);
        Lock::try_now(&path).unwrap();
    }

    #[test]
    fn a_data_folder_that_cannot_be_made_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, b"").unwrap();
        let error = DataDir::new(file.join("below")).prepare().unwrap_err();
        assert!(format!("{error:#}").contains("file/below"), "{error:#}");
    }
}
