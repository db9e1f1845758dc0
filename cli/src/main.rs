//! The `warren` binary.
//!
//! Exit codes: 0 done; 1 failed, with the reason on standard error; 2 the arguments are wrong; 3 `warren status` found
//! something degraded, or `warren supervise --status` found nothing running.

mod accounts;
mod database;
mod files;
mod init;
mod output;
mod pki;
mod roles;
mod supervise;
mod verbs;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// An object is a tree of small pieces, and a third of a create's time went into the C library's allocator:
/// docs/benchmarks.md has the comparison.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What `warren status` and `warren supervise --status` answer where something is amiss.
const EXIT_DEGRADED: u8 = 3;

#[derive(Debug, Parser)]
#[command(
    name = "warren",
    version,
    about = "An orchestrator that speaks the Kubernetes API and moves every change through RabbitMQ",
    after_help = "EXIT CODES:\n  0  done\n  1  failed; the reason is on standard error\n  2  the arguments are wrong\n  \
                  3  `status`: something is degraded; `supervise --status`: does not run",
    propagate_version = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring up a whole cluster in one process.
    Up(roles::up::Args),
    /// Serve the API.
    Apiserver(roles::apiserver::Args),
    /// Run a node's agent.
    Agent(roles::agent::Args),
    /// Run the controllers and the scheduler.
    Controllers(roles::controllers::Args),
    /// Make the CA, certificates, kubeconfigs and broker accounts of a data folder; what is there is kept.
    Init(init::Args),
    /// Keep a program running, where no systemd does.
    Supervise(supervise::Args),
    /// Create or change the objects of files (server-side apply).
    Apply(verbs::apply::Args),
    /// Show objects.
    Get(verbs::get::Args),
    /// Delete objects.
    Delete(verbs::delete::Args),
    /// Show what a container wrote.
    Logs(verbs::logs::Args),
    /// Show what happened; with -f every change as it happens.
    Events(verbs::events::Args),
    /// Do again at a fresh server what `warren events -f -o json` has recorded.
    Replay(verbs::replay::Args),
    /// Show the way of an object's last changes: accepted, published, delivered, acted on, with times.
    Trace(verbs::trace::Args),
    /// Say what works and what is degraded.
    Status(verbs::status::Args),
    /// Copy the server's database into a file, also while the server runs.
    Backup(database::BackupArgs),
    /// Put a backup in the place of the database of a server that does not run.
    Restore(database::RestoreArgs),
    /// Read all of the server's database, or of a backup, and say whether it is whole.
    Check(database::CheckArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Fails only where one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match run(&cli.command) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            output::note(&told(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

/// As clap says what is wrong with the arguments. What the server said keeps its own beginning, which kubectl's users know.
fn told(error: &str) -> String {
    let begins = error.starts_with("Error from server") || error.starts_with("The ");
    if begins { error.to_owned() } else { format!("error: {error}") }
}

fn run(command: &Command) -> Result<u8> {
    let done = |()| 0;
    match command {
        Command::Up(args) => roles::up::run(args).map(done),
        Command::Apiserver(args) => roles::apiserver::run(args).map(done),
        Command::Agent(args) => roles::agent::run(args).map(done),
        Command::Controllers(args) => roles::controllers::run(args).map(done),
        Command::Init(args) => init::run(args).map(done),
        Command::Supervise(args) => supervise::run(args),
        Command::Apply(args) => verb(verbs::apply::run(args)).map(done),
        Command::Get(args) => verb(verbs::get::run(args)).map(done),
        Command::Delete(args) => verb(verbs::delete::run(args)).map(done),
        Command::Logs(args) => verb(verbs::logs::run(args)).map(done),
        Command::Events(args) => verb(verbs::events::run(args)).map(done),
        Command::Replay(args) => verb(verbs::replay::run(args)).map(done),
        Command::Trace(args) => verb(verbs::trace::run(args)).map(done),
        Command::Status(args) => {
            verb(verbs::status::run(args)).map(|good| if good { 0 } else { EXIT_DEGRADED })
        }
        Command::Backup(args) => database::backup(args).map(done),
        Command::Restore(args) => database::restore(args).map(done),
        Command::Check(args) => database::check(args).map(done),
    }
}

/// Runs what a person asked for; it has one connection, so one thread does.
fn verb<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_argument_is_documented() {
        let undocumented = |command: &clap::Command| -> Vec<String> {
            command
                .get_arguments()
                .filter(|argument| argument.get_help().is_none())
                .map(|argument| format!("{} {}", command.get_name(), argument.get_id()))
                .collect()
        };
        let found: Vec<_> = Cli::command().get_subcommands().flat_map(undocumented).collect();
        assert_eq!(found, Vec::<String>::new());
    }
}
