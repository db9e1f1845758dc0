//! Files that are replaced all at once: `..data` is a link to a folder with the files of one moment, and what a
//! container sees are links through it. The layout is that of Kubernetes, which programs rely on.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub bytes: Vec<u8>,
    pub mode: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Payload(BTreeMap<String, File>);

const DATA: &str = "..data";

impl Payload {
    /// `path` is relative and stays below the volume.
    pub(crate) fn add(&mut self, path: &str, file: File) -> Result<(), String> {
        let steps = path.split('/');
        let bad = |step: &str| step.is_empty() || step == "." || step == "..";
        if path.is_empty() || steps.clone().any(bad) || path.starts_with("..") || path.len() > 4096
        {
            return Err(format!("invalid path {path:?}"));
        }
        self.0.insert(path.to_owned(), file);
        Ok(())
    }

    /// Makes the folder's contents these. What is there already is left as it is.
    pub(crate) fn write(&self, root: &Path, group: Option<u32>) -> io::Result<()> {
        let data = root.join(DATA);
        if self.is_there(&data) {
            return Ok(());
        }
        let stamp = jiff::Timestamp::now().strftime("..%Y_%m_%d_%H_%M_%S.%9f").to_string();
        let fresh = root.join(&stamp);
        std::fs::create_dir(&fresh)?;
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o755))?;
        for (path, file) in &self.0 {
            let path = fresh.join(path);
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)?;
            }
            let mut options = std::fs::OpenOptions::new();
            let mut out = options.write(true).create_new(true).mode(file.mode).open(&path)?;
            out.write_all(&file.bytes)?;
            // Past the umask; and a group that reads gets to.
            let mode = file.mode | if group.is_some() { 0o040 } else { 0 };
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
            if group.is_some() {
                std::os::unix::fs::chown(&path, None, group)?;
            }
        }
        let old = std::fs::read_link(&data).ok();
        let link = root.join("..data_tmp");
        match std::fs::remove_file(&link) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => symlink(&stamp, &link)?,
        }
        std::fs::rename(&link, &data)?;

        let first = |path: &String| path.split('/').next().unwrap_or_default().to_owned();
        let wanted: BTreeSet<String> = self.0.keys().map(first).collect();
        for name in &wanted {
            let link = root.join(name);
            if std::fs::symlink_metadata(&link).is_err() {
                symlink(Path::new(DATA).join(name), link)?;
            }
        }
        for entry in std::fs::read_dir(root)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if !name.starts_with("..") && !wanted.contains(&name) {
                std::fs::remove_file(root.join(name))?;
            }
        }
        if let Some(old) = old {
            std::fs::remove_dir_all(root.join(old))?;
        }
        Ok(())
    }

    fn is_there(&self, data: &Path) -> bool {
        let mut count = 0;
        data.is_dir()
            && self.0.iter().all(|(path, file)| {
                count += 1;
                std::fs::read(data.join(path)).is_ok_and(|bytes| bytes == file.bytes)
            })
            && count_files(data).is_ok_and(|files| files == count)
    }
}

fn count_files(dir: &Path) -> io::Result<usize> {
    let mut count = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        count += if entry.file_type()?.is_dir() { count_files(&entry.path())? } else { 1 };
    }
    Ok(count)
}
