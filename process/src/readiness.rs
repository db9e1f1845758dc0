//! What a process needs before it serves, by name.

use std::fmt::{self, Write};
use std::sync::Arc;

use tokio::sync::watch;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckState {
    Ready,
    /// Ready, and there is more to say than that.
    Told(String),
    /// Ready, and somebody should look at it some time.
    Noted(String),
    /// It serves, but not all of it: the broker is away, say. Counts as ready, and the report tells the reason.
    Degraded(String),
    NotReady(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckReport {
    pub name: &'static str,
    pub state: CheckState,
}

/// `[+]name ok`, as `/readyz?verbose` shows it.
impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name;
        match &self.state {
            CheckState::Ready => write!(f, "[+]{name} ok"),
            CheckState::Told(text) => write!(f, "[+]{name} ok: {text}"),
            CheckState::Noted(text) => write!(f, "[+]{name} noted: {text}"),
            CheckState::Degraded(reason) => write!(f, "[+]{name} degraded: {reason}"),
            CheckState::NotReady(reason) => write!(f, "[-]{name} failed: {reason}"),
        }
    }
}

/// The checks of a process; clones share them. Without any check a process is ready.
#[derive(Clone, Debug)]
pub struct Readiness {
    checks: Arc<watch::Sender<Vec<CheckReport>>>,
}

/// Sets the state of one check.
#[derive(Clone, Debug)]
pub struct CheckHandle {
    name: &'static str,
    checks: Arc<watch::Sender<Vec<CheckReport>>>,
}

impl Default for Readiness {
    fn default() -> Self {
        Self { checks: Arc::new(watch::Sender::new(Vec::new())) }
    }
}

impl Readiness {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a check, not ready for the reason `starting`. The same name again is the same check.
    pub fn check(&self, name: &'static str) -> CheckHandle {
        self.checks.send_if_modified(|checks| {
            let new = !checks.iter().any(|check| check.name == name);
            if new {
                checks.push(CheckReport { name, state: CheckState::NotReady("starting".into()) });
            }
            new
        });
        CheckHandle { name, checks: Arc::clone(&self.checks) }
    }

    pub fn is_ready(&self) -> bool {
        all_ready(&self.checks.borrow())
    }

    /// All checks, in the order in which they were added.
    pub fn report(&self) -> Vec<CheckReport> {
        self.checks.borrow().clone()
    }

    /// Completes when every check is ready. Cancellation safe.
    pub async fn ready(&self) {
        // The sender lives in `self`.
        let _ = self.checks.subscribe().wait_for(|checks| all_ready(checks)).await;
    }

    /// As the API server's `/readyz?verbose` shows it: a line a check, and the verdict on `endpoint` in the last line.
    pub fn verbose(&self, endpoint: &str) -> String {
        self.verbose_with(endpoint, &[])
    }

    /// The same with what was found out just now, which stands in for checks of the same name.
    pub fn verbose_with(&self, endpoint: &str, found: &[CheckReport]) -> String {
        let checks = self.checks.borrow();
        let mut text = String::new();
        let is_old = |check: &&CheckReport| found.iter().any(|other| other.name == check.name);
        for check in checks.iter().filter(|check| !is_old(check)).chain(found) {
            // Writing into a string does not fail.
            let _ = writeln!(text, "{check}");
        }
        let verdict = if all_ready(&checks) { "passed" } else { "failed" };
        let _ = writeln!(text, "{endpoint} check {verdict}");
        text
    }
}

impl CheckHandle {
    pub fn ready(&self) {
        self.set(CheckState::Ready);
    }

    pub fn degraded(&self, reason: impl Into<String>) {
        self.set(CheckState::Degraded(reason.into()));
    }

    pub fn not_ready(&self, reason: impl Into<String>) {
        self.set(CheckState::NotReady(reason.into()));
    }

    /// Logs when the state changes; a degraded check's reason may count and is no change.
    pub fn set(&self, state: CheckState) {
        self.checks.send_if_modified(|checks| {
            let Some(check) = checks.iter_mut().find(|check| check.name == self.name) else {
                return false;
            };
            if check.state == state {
                return false;
            }
            match &state {
                CheckState::Ready | CheckState::Told(_) | CheckState::Noted(_) => {
                    tracing::info!(check = self.name, "ready");
                }
                CheckState::Degraded(reason) => match &check.state {
                    CheckState::Degraded(_) => {}
                    CheckState::Ready | CheckState::Told(_) | CheckState::Noted(_) => {
                        tracing::warn!(check = self.name, reason, "degraded")
                    }
                    // As it starts: nothing got worse.
                    CheckState::NotReady(_) => {
                        tracing::info!(check = self.name, reason, "degraded");
                    }
                },
                CheckState::NotReady(reason) => {
                    tracing::warn!(check = self.name, reason, "not ready");
                }
            }
            check.state = state;
            true
        });
    }
}

fn all_ready(checks: &[CheckReport]) -> bool {
    !checks.iter().any(|check| matches!(check.state, CheckState::NotReady(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_is_ready_when_all_checks_are() {
        let readiness = Readiness::new();
        assert!(readiness.is_ready());
        let (journal, fabric) = (readiness.check("journal"), readiness.check("fabric"));
        assert!(!readiness.is_ready());
        journal.ready();
        fabric.not_ready("connection refused");
        assert_eq!(
            readiness.verbose("readyz"),
            "[+]journal ok\n[-]fabric failed: connection refused\nreadyz check failed\n"
        );
        let waiting = readiness.ready();
        fabric.degraded("events wait");
        waiting.await;
        assert_eq!(
            readiness.verbose("readyz"),
            "[+]journal ok\n[+]fabric degraded: events wait\nreadyz check passed\n"
        );
        let found = [
            CheckReport { name: "fabric", state: CheckState::Told("fine".into()) },
            CheckReport { name: "letters", state: CheckState::Noted("3 wait".into()) },
        ];
        assert_eq!(
            readiness.verbose_with("readyz", &found),
            "[+]journal ok\n[+]fabric ok: fine\n[+]letters noted: 3 wait\nreadyz check passed\n"
        );
        readiness.check("journal");
        assert_eq!(readiness.report().len(), 2);
        assert!(readiness.is_ready());
    }
}
