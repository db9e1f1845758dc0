//! `hostPath` and its types.

use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use super::HostPathVolumeSource;

/// Checks the path against its type, making it where the type says so.
pub(super) fn check(source: &HostPathVolumeSource) -> Result<(), String> {
    let path = Path::new(&source.path);
    let kind = source.type_.as_deref().unwrap_or_default();
    if !path.is_absolute() {
        return Err(format!("hostPath {} is not absolute", source.path));
    }
    let make = |result: std::io::Result<()>| result.map_err(|e| format!("{}: {e}", source.path));
    match kind {
        "DirectoryOrCreate" if !path.exists() => make(std::fs::create_dir_all(path))?,
        "FileOrCreate" if !path.exists() => {
            let mut options = std::fs::OpenOptions::new();
            make(options.create(true).append(true).mode(0o644).open(path).map(drop))?;
        }
        _ => {}
    }
    let found = std::fs::metadata(path).map(|m| m.file_type());
    let (is, what) = match (kind, &found) {
        ("", _) => return Ok(()),
        ("Directory" | "DirectoryOrCreate", Ok(f)) => (f.is_dir(), "a directory"),
        ("File" | "FileOrCreate", Ok(f)) => (f.is_file(), "a file"),
        ("Socket", Ok(f)) => (f.is_socket(), "a socket file"),
        ("CharDevice", Ok(f)) => (f.is_char_device(), "a character device"),
        ("BlockDevice", Ok(f)) => (f.is_block_device(), "a block device"),
        (other, Ok(_)) => return Err(format!("unknown hostPath type {other:?}")),
        (_, Err(_)) => {
            return Err(format!("hostPath type check failed: {} does not exist", source.path));
        }
    };
    if is {
        Ok(())
    } else {
        Err(format!("hostPath type check failed: {} is not {what}", source.path))
    }
}
