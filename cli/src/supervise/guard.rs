//! Who restarts the supervisor: its guard, which the supervisor restarts in turn. Whichever of the two is killed comes
//! back; both in the same instant do not.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::Stdio;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};
use tokio::process::{Child, Command};

use super::{Args, Files, note, open_log};

/// What this process runs, also after an upgrade has put another file in its place.
const OWN: &str = "/proc/self/exe";

/// Starts the guard of this supervisor. It is killed when the handle goes, so that an orderly end leaves nobody who
/// would undo it.
pub(super) fn start(args: &Args, log: &File) -> Result<Child> {
    Command::new(OWN)
        .arg("supervise")
        .arg("--guard-of")
        .arg(std::process::id().to_string())
        .args(arguments(args))
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("the log")?)
        .stderr(log.try_clone().context("the log")?)
        // What is typed in the supervisor's terminal is the supervisor's to answer.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .context("starting the supervisor's guard")
}

/// In the guard: waits for the end of the supervisor and takes its place. Returns only where that failed.
pub(super) fn watch(supervisor: i32, args: &Args) -> anyhow::Error {
    let Err(error) = wait_for_end(supervisor) else {
        let log = open_log(&Files::new(args).log);
        let text = format!("the supervisor (pid {supervisor}) was killed; its guard takes over");
        let _ = log.map(|mut log| note(&mut log, &text));
        let error = std::process::Command::new(OWN).arg("supervise").args(arguments(args)).exec();
        return anyhow::Error::from(error).context("taking the supervisor's place");
    };
    error
}

fn wait_for_end(supervisor: i32) -> Result<()> {
    let pid = Pid::from_raw(supervisor).context("--guard-of: not a pid")?;
    let handle = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(handle) => handle,
        Err(Errno::SRCH) => return Ok(()),
        Err(error) => return Err(error).context("finding the supervisor"),
    };
    // Another process has its pid by now: it went before the handle was there.
    if rustix::process::getppid() != Some(pid) {
        return Ok(());
    }
    loop {
        match rustix::event::poll(&mut [PollFd::new(&handle, PollFlags::IN)], None) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("waiting for the supervisor"),
        }
    }
}

/// The supervisor's command line.
fn arguments(args: &Args) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["--data-dir".into(), args.data_dir.clone().into()];
    let options = [
        ("--name", args.name.clone()),
        ("--log-max-bytes", args.log_max_bytes.to_string()),
        ("--log-keep", args.log_keep.to_string()),
    ];
    for (option, value) in options {
        arguments.extend([option.into(), value.into()]);
    }
    arguments.push("--".into());
    arguments.extend(args.command.iter().map(OsString::from));
    arguments
}
