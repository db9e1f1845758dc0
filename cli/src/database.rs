//! `warren backup`, `restore` and `check`: the server's database as a file.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use warren_store::{BackupError, OpenError, Summary};

use crate::files::DataDir;

#[derive(Clone, Debug, clap::Args)]
struct Data {
    /// The data folder of the server.
    #[arg(long, env = "WARREN_DATA_DIR", default_value_os_t = DataDir::default_path())]
    data_dir: PathBuf,
}

impl Data {
    fn database(&self) -> PathBuf {
        DataDir::new(&self.data_dir).database()
    }
}

#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "The file holds every object, Secrets too, and is readable by its owner only. Keys, certificates and the broker's \
                  accounts (pki/ and broker/ of the data folder) are not in it: they do not change, copy them once."
)]
pub(crate) struct BackupArgs {
    /// Where the copy goes. It appears when it is complete.
    file: PathBuf,
    /// Replace a file that is there.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    data: Data,
}

#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "The revision is raised by 10^9 and the epoch too, so that no reader takes the old world for the new one: all \
                  list again. Nodes end what the restored cluster does not know. What was there before is kept beside it, as \
                  server/warren.db.before-restore."
)]
pub(crate) struct RestoreArgs {
    /// What `warren backup` made. It is checked first, and not changed.
    file: PathBuf,
    #[command(flatten)]
    data: Data,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CheckArgs {
    /// A backup; without it the server's database, also while the server runs.
    file: Option<PathBuf>,
    #[command(flatten)]
    data: Data,
}

pub(crate) fn backup(args: &BackupArgs) -> Result<()> {
    if args.file.exists() && !args.force {
        bail!("{} is there already; name another file, or --force", args.file.display());
    }
    let begin = Instant::now();
    let summary = warren_store::back_up(&args.data.database(), &args.file)
        .with_context(|| format!("backup of {}", args.data.data_dir.display()))?;
    let bytes = std::fs::metadata(&args.file).map_or(0, |file| file.len());
    crate::say!(
        "{}: {}; {:.1} MB in {:.1} s",
        args.file.display(),
        told(&summary),
        bytes as f64 / 1e6,
        begin.elapsed().as_secs_f64()
    );
    Ok(())
}

pub(crate) fn restore(args: &RestoreArgs) -> Result<()> {
    let to = args.data.database();
    make_folder(&to)?;
    let restored = warren_store::restore(&args.file, &to).map_err(|error| {
        let runs = matches!(error, BackupError::Open(OpenError::InUse { .. }));
        let error = anyhow::Error::from(error);
        if runs { error.context("stop the server first (installer.sh --down)") } else { error }
    })?;
    let (revision, epoch) = (restored.revision, restored.epoch);
    crate::say!("{}: restored; revision {revision}, epoch {epoch}", to.display());
    Ok(())
}

pub(crate) fn check(args: &CheckArgs) -> Result<()> {
    let file = args.file.clone().unwrap_or_else(|| args.data.database());
    let summary = warren_store::inspect(&file)?;
    crate::say!("{}: whole; {}", file.display(), told(&summary));
    Ok(())
}

fn told(summary: &Summary) -> String {
    let Summary { epoch, revision, objects } = summary;
    format!("{objects} objects at revision {revision}, epoch {epoch}")
}

/// On a machine that has never run a server.
fn make_folder(database: &Path) -> Result<()> {
    let Some(folder) = database.parent() else { return Ok(()) };
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())
}
