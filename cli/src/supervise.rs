//! `warren supervise`: keeps one program running where no systemd does.
//!
//! The program writes its log itself, to a file that the supervisor bounds by copying and truncating; so nothing that
//! it says is lost in a pipe when the supervisor is killed. It goes with its supervisor (parent death signal), so that
//! a new supervisor, which the guard becomes, never finds an orphan in the way.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use crate::files::{DataDir, Lock, make_dir, read_optional, write_atomically};

mod guard;

/// The first wait after an end, doubled up to the last.
const FIRST_DELAY: Duration = Duration::from_secs(1);
const LAST_DELAY: Duration = Duration::from_secs(60);
/// Whoever ran so long starts with the first delay again.
const STEADY: Duration = Duration::from_secs(60);
/// From the polite signal to the other.
const GRACE: Duration = Duration::from_secs(30);
/// How often the log's size is looked at. A program that writes 10 MB/s overshoots the bound by 50 MB.
const LOG_CHECK: Duration = Duration::from_secs(5);
/// How a program says that its arguments are wrong; no restart mends that.
const EXIT_USAGE: i32 = 2;

#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "EXAMPLES:\n  setsid warren supervise --name agent -- warren agent --node-name n1 &\n  \
                        warren supervise --name agent --status\n  warren supervise --name agent --stop"
)]
pub(crate) struct Args {
    /// The data folder; the pid file goes to <data>/run, the log to <data>/log.
    #[arg(long, env = "WARREN_DATA_DIR", default_value_os_t = DataDir::default_path())]
    data_dir: PathBuf,
    /// Names the pid file, the log and the lock. One supervisor per name.
    #[arg(long, default_value = "agent", value_parser = plain_name)]
    name: String,
    /// Size at which the log is moved aside.
    #[arg(long, value_name = "BYTES", default_value_t = 10 * 1024 * 1024)]
    log_max_bytes: u64,
    /// How many old logs are kept.
    #[arg(long, value_name = "N", default_value_t = 3)]
    log_keep: u32,
    /// Stop the supervisor of this name and its program, and wait until both are gone.
    #[arg(long, conflicts_with_all = ["status", "command"])]
    stop: bool,
    /// Say whether the supervisor of this name runs. Exit code 3 where it does not.
    #[arg(long, conflicts_with = "command")]
    status: bool,
    /// Used by the supervisor on itself: become the program, tied to this parent.
    #[arg(long, hide = true, value_name = "PID")]
    become_child_of: Option<i32>,
    /// Used by the supervisor on itself: take its place when it is killed.
    #[arg(long, hide = true, value_name = "PID")]
    guard_of: Option<i32>,
    /// The program and its arguments.
    #[arg(last = true, required_unless_present_any = ["stop", "status"])]
    command: Vec<String>,
}

/// Runs the subcommand; answers the exit code.
pub(crate) fn run(args: &Args) -> Result<u8> {
    let files = Files::new(args);
    if let Some(parent) = args.become_child_of {
        return Err(become_program(parent, &args.command));
    }
    if let Some(supervisor) = args.guard_of {
        return Err(guard::watch(supervisor, args));
    }
    if args.stop {
        return stop(&files).map(|()| 0);
    }
    if args.status {
        return Ok(match files.running()? {
            Some(pid) => {
                crate::say!("{} runs under pid {}", args.name, pid.as_raw_nonzero());
                0
            }
            None => {
                crate::say!("{} does not run", args.name);
                3
            }
        });
    }
    // One thread: the parent death signal is tied to the thread that starts the program.
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?
        .block_on(supervise(args, &files))
        .map(|()| 0)
}

struct Files {
    pid: PathBuf,
    lock: PathBuf,
    log: PathBuf,
}

impl Files {
    fn new(args: &Args) -> Self {
        let data = DataDir::new(&args.data_dir);
        Self {
            pid: data.run().join(format!("{}.pid", args.name)),
            lock: data.run().join(format!("{}.lock", args.name)),
            log: data.log().join(format!("{}.log", args.name)),
        }
    }

    /// The supervisor that the pid file names, where that process is still the one that wrote it.
    fn running(&self) -> Result<Option<Pid>> {
        let Some(content) = read_optional(&self.pid)? else { return Ok(None) };
        let Some((pid, started)) = parse_pid_file(&content) else {
            bail!("{}: is not a pid file of a supervisor; remove it", self.pid.display());
        };
        Ok((start_time(pid) == Some(started)).then_some(pid))
    }
}

async fn supervise(args: &Args, files: &Files) -> Result<()> {
    let _lock = Lock::try_now(&files.lock).with_context(|| {
        format!("a supervisor of {:?} runs already; end it with --stop", args.name)
    })?;
    let own = rustix::process::getpid();
    let started = start_time(own).context("/proc/self/stat: cannot be read")?;
    write_atomically(
        &files.pid,
        format!("{}\n{started}\n", own.as_raw_nonzero()).as_bytes(),
        0o644,
    )?;
    crate::note!("supervising {:?}; its log is {}", args.name, files.log.display());
    let result = keep_running(args, files).await;
    let _ = fs::remove_file(&files.pid);
    result
}

/// What ends a wait.
enum Woken {
    Ended(io::Result<ExitStatus>),
    Stop,
    Forward(Signal),
    CheckLog,
    Restart,
    GuardEnded,
    RestartGuard,
}

async fn keep_running(args: &Args, files: &Files) -> Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut usr1 = signal(SignalKind::user_defined1())?;
    let mut usr2 = signal(SignalKind::user_defined2())?;
    let mut log_check = tokio::time::interval(LOG_CHECK);

    let mut log = open_log(&files.log)?;
    let mut child = Some(start(args, &log)?);
    let mut started = Instant::now();
    let mut delay = Duration::ZERO;
    let mut restart_at = started;
    let mut guard = Some(guard::start(args, &log)?);
    let mut restart_guard_at = started;
    loop {
        let (running, guarded) = (child.is_some(), guard.is_some());
        let woken = tokio::select! {
            status = wait(&mut child), if running => Woken::Ended(status),
            () = tokio::time::sleep_until(restart_at), if !running => Woken::Restart,
            _ = term.recv() => Woken::Stop,
            _ = interrupt.recv() => Woken::Stop,
            _ = hangup.recv() => Woken::Forward(Signal::HUP),
            _ = usr1.recv() => Woken::Forward(Signal::USR1),
            _ = usr2.recv() => Woken::Forward(Signal::USR2),
            _ = log_check.tick() => Woken::CheckLog,
            _ = wait(&mut guard), if guarded => Woken::GuardEnded,
            () = tokio::time::sleep_until(restart_guard_at), if !guarded => Woken::RestartGuard,
        };
        match woken {
            Woken::Ended(status) => {
                let status = status.context("waiting for the program")?;
                if status.code() == Some(EXIT_USAGE) {
                    bail!(
                        "the program says that its arguments are wrong (exit code 2); see {}",
                        files.log.display()
                    );
                }
                delay = next_delay(delay, started.elapsed());
                restart_at = Instant::now() + delay;
                child = None;
                note(&mut log, &format!("{}; next start in {delay:?}", describe(status)));
            }
            Woken::Restart => match start(args, &log) {
                Ok(program) => {
                    child = Some(program);
                    started = Instant::now();
                }
                Err(error) => {
                    delay = next_delay(delay, Duration::ZERO);
                    restart_at = Instant::now() + delay;
                    note(&mut log, &format!("{error:#}; next try in {delay:?}"));
                }
            },
            Woken::Stop => {
                // First, so that nobody takes over from one that is killed while it ends.
                drop(guard);
                if let Some(program) = child {
                    end(program, &mut log).await;
                }
                return Ok(());
            }
            Woken::Forward(signal) => {
                if let Some(pid) = child.as_ref().and_then(pid_of) {
                    let _ = rustix::process::kill_process(pid, signal);
                }
            }
            Woken::GuardEnded => {
                guard = None;
                restart_guard_at = Instant::now() + FIRST_DELAY;
            }
            Woken::RestartGuard => match guard::start(args, &log) {
                Ok(started) => guard = Some(started),
                Err(error) => {
                    restart_guard_at = Instant::now() + FIRST_DELAY;
                    note(&mut log, &format!("{error:#}; next try in {FIRST_DELAY:?}"));
                }
            },
            Woken::CheckLog => {
                if let Err(error) = rotate(&files.log, args.log_max_bytes, args.log_keep) {
                    note(&mut log, &format!("the log cannot be moved aside: {error}"));
                }
            }
        }
    }
}

async fn wait(child: &mut Option<Child>) -> io::Result<ExitStatus> {
    match child {
        Some(child) => child.wait().await,
        None => std::future::pending().await,
    }
}

/// The polite signal, the grace, the other signal.
async fn end(mut program: Child, log: &mut File) {
    if let Some(pid) = pid_of(&program) {
        let _ = rustix::process::kill_process(pid, Signal::TERM);
    }
    if tokio::time::timeout(GRACE, program.wait()).await.is_err() {
        note(log, "the program did not end in time and is killed");
        let _ = program.kill().await;
    }
}

fn start(args: &Args, log: &File) -> Result<Child> {
    // What this process runs, also after an upgrade has put another file in its place.
    let own = "/proc/self/exe";
    Command::new(own)
        .args(["supervise", "--become-child-of"])
        .arg(std::process::id().to_string())
        .arg("--")
        .args(&args.command)
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("the log")?)
        .stderr(log.try_clone().context("the log")?)
        // Its own group: Ctrl-C reaches the supervisor, which passes it on once.
        .process_group(0)
        .spawn()
        .with_context(|| format!("starting {}", args.command[0]))
}

/// In the new process: ends with the parent, becomes the program. Returns only where that failed.
fn become_program(parent: i32, command: &[String]) -> anyhow::Error {
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::TERM)) {
        return anyhow::Error::from(error).context("binding to the supervisor");
    }
    // It may have gone before the line above.
    if rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get()) != Some(parent) {
        return anyhow::anyhow!("the supervisor is gone");
    }
    let Some((program, arguments)) = command.split_first() else {
        return anyhow::anyhow!("no program given");
    };
    let error = std::process::Command::new(program).args(arguments).exec();
    anyhow::Error::from(error).context(format!("starting {program}"))
}

fn stop(files: &Files) -> Result<()> {
    let Some(pid) = files.running()? else {
        let _ = fs::remove_file(&files.pid);
        return Ok(());
    };
    let gone = |error: rustix::io::Errno| error == rustix::io::Errno::SRCH;
    let handle = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(handle) => handle,
        Err(error) if gone(error) => return Ok(()),
        Err(error) => return Err(error).context("finding the supervisor"),
    };
    // Between the check and the handle the pid may have passed to another process.
    if files.running()? != Some(pid) {
        return Ok(());
    }
    match rustix::process::pidfd_send_signal(&handle, Signal::TERM) {
        Ok(()) => {}
        Err(error) if gone(error) => return Ok(()),
        Err(error) => return Err(error).context("signalling the supervisor"),
    }
    let limit = GRACE + Duration::from_secs(10);
    let limit = Timespec { tv_sec: limit.as_secs().cast_signed(), tv_nsec: 0 };
    let mut poll = [PollFd::new(&handle, PollFlags::IN)];
    if rustix::event::poll(&mut poll, Some(&limit)).context("waiting for the supervisor")? == 0 {
        bail!("the supervisor (pid {}) did not end in time", pid.as_raw_nonzero());
    }
    Ok(())
}

fn pid_of(child: &Child) -> Option<Pid> {
    Pid::from_raw(child.id()?.cast_signed())
}

/// The delay after an end: the first for whoever ran steadily, else twice the one before, up to the last.
fn next_delay(before: Duration, ran: Duration) -> Duration {
    if ran >= STEADY || before.is_zero() { FIRST_DELAY } else { (before * 2).min(LAST_DELAY) }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("the program ended with code {code}"),
        (None, Some(signal)) => format!("the program was ended by signal {signal}"),
        (None, None) => "the program ended".to_owned(),
    }
}

fn note(log: &mut File, text: &str) {
    let _ = writeln!(log, "{} supervisor: {text}", jiff::Timestamp::now());
}

fn open_log(path: &Path) -> Result<File> {
    if let Some(dir) = path.parent() {
        make_dir(dir)?;
    }
    // Append: after a truncation the writers go on at the start.
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("log {}: cannot be opened", path.display()))
}

/// Moves a log that has grown over its bound to `.1`, `.1` to `.2`, and so on. What is written between the copy and
/// the truncation is lost: a few lines at most.
fn rotate(path: &Path, max: u64, keep: u32) -> io::Result<()> {
    if fs::metadata(path)?.len() <= max {
        return Ok(());
    }
    let old = |n: u32| PathBuf::from(format!("{}.{n}", path.display()));
    for n in (1..keep).rev() {
        if old(n).exists() {
            fs::rename(old(n), old(n + 1))?;
        }
    }
    if keep > 0 {
        fs::copy(path, old(1))?;
    }
    OpenOptions::new().write(true).truncate(true).open(path).map(drop)
}

fn parse_pid_file(content: &str) -> Option<(Pid, u64)> {
    let mut lines = content.lines();
    let pid = Pid::from_raw(lines.next()?.trim().parse().ok().filter(|pid| *pid > 0)?)?;
    Some((pid, lines.next()?.trim().parse().ok()?))
}

/// When a process started, in clock ticks since boot; with the pid it names a process for good. `None` where there is
/// no such process, or one that has ended and that nobody has waited for.
fn start_time(pid: Pid) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    parse_start_time(&stat)
}

/// proc_pid_stat(5): field 22; the name in field 2 may hold blanks and brackets, field 3 is the state.
fn parse_start_time(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let ended = matches!(fields.next()?, "Z" | "X");
    fields.nth(18)?.parse().ok().filter(|_| !ended)
}

fn plain_name(name: &str) -> Result<String, String> {
    let fits = !name.is_empty()
        && name.len() <= 100
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if fits {
        Ok(name.to_owned())
    } else {
        Err("letters, digits, '-', '_' and '.' only, at most 100".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_a_bound_and_start_again() {
        let secs = Duration::from_secs;
        let mut delay = Duration::ZERO;
        let mut seen = vec![];
        for _ in 0..8 {
            delay = next_delay(delay, secs(3));
            seen.push(delay.as_secs());
        }
        assert_eq!(seen, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(next_delay(delay, secs(60)), secs(1));
    }

    #[test]
    fn start_times_are_read_past_odd_names() {
        let stat = "42 (a) b) S 1 42 42 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 987654 1 2";
        assert_eq!(parse_start_time(stat), Some(987_654));
        assert_eq!(parse_start_time(&stat.replace(") S", ") Z")), None, "it has ended");
        assert_eq!(parse_start_time("42"), None);
        assert!(start_time(rustix::process::getpid()).is_some());
    }

    #[test]
    fn pid_files_are_checked() {
        for (content, good) in
            [("12\n34\n", true), ("12\n", false), ("-1\n3\n", false), ("", false)]
        {
            assert_eq!(parse_pid_file(content).is_some(), good, "{content:?}");
        }
    }

    #[test]
    fn logs_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        for content in ["one", "two", "three", "four"] {
            fs::write(&path, content).unwrap();
            rotate(&path, 2, 2).unwrap();
        }
        assert_eq!(fs::read_to_string(dir.path().join("x.log.1")).unwrap(), "four");
        assert_eq!(fs::read_to_string(dir.path().join("x.log.2")).unwrap(), "three");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
        assert_eq!(fs::metadata(&path).unwrap().len(), 0);
    }
}
