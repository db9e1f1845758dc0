//! How each fault is done and undone.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use hyper::Method;
use serde_json::Value;
use tokio::sync::OwnedRwLockWriteGuard;
use warren_tests::Role;
use warren_tests::chaos::Entry;
use warren_tests::cluster::binary;
use warren_tests::kubectl;
use warren_tests::proxy::Mode;

use super::schedule::{Fault, From};
use crate::World;

/// RabbitMQ's own.
const WATERMARK: &str = "0.4";
/// A node's lease lasts 40 s, and who leads has two.
const PAST_LEASE: Duration = Duration::from_secs(45);

/// How to undo it.
pub enum Undo {
    Nothing,
    Start(Role),
    StartBroker,
    Resume(Role),
    ResumeBroker,
    Open(Role, From),
    OpenClients,
    Watermark,
    Remove(PathBuf),
}

impl World {
    /// An error says that it could not be done, as where another fault has taken the broker away.
    pub async fn begin(&mut self, fault: &Fault) -> Result<Undo> {
        let undo = match fault {
            Fault::Kill(role) => {
                self.alive(role)?;
                self.cluster.kill9(role);
                Undo::Start(role.clone())
            }
            Fault::KillBroker => {
                self.rabbit.kill9();
                Undo::StartBroker
            }
            Fault::Stop(role) => {
                self.alive(role)?;
                self.cluster.pause(role, true);
                Undo::Resume(role.clone())
            }
            Fault::StopLong(role) => {
                self.alive(role)?;
                let pid = self.cluster.pid(role).context("it does not run")?;
                self.cluster.pause(role, true);
                self.stopped.push((role.clone(), pid, Instant::now() + PAST_LEASE));
                Undo::Nothing
            }
            Fault::StopBroker => {
                self.rabbit.pause(true);
                Undo::ResumeBroker
            }
            Fault::Cut { part, from, how } => {
                self.proxies[&(part.clone(), *from)].set(*how);
                Undo::Open(part.clone(), *from)
            }
            Fault::CutClients(how) => {
                self.clients.set(*how);
                Undo::OpenClients
            }
            Fault::PurgeQueue(number) => {
                let queue = self.queue(*number).await?;
                self.delete(&format!("/api/queues/%2f/{queue}/contents")).await?;
                Undo::Nothing
            }
            Fault::DeleteQueue(number) => {
                let queue = self.queue(*number).await?;
                self.delete(&format!("/api/queues/%2f/{queue}")).await?;
                Undo::Nothing
            }
            Fault::DeleteBinding(number) => {
                self.delete_binding(*number).await?;
                Undo::Nothing
            }
            Fault::DeleteExchange => {
                self.delete("/api/exchanges/%2f/warren.events").await?;
                Undo::Nothing
            }
            Fault::CloseConnection(number) => {
                let all = self.connections().await?;
                let name = all.get(*number as usize % all.len().max(1)).context("none")?;
                self.delete(&format!("/api/connections/{name}")).await?;
                Undo::Nothing
            }
            Fault::CloseConnections => {
                for name in self.connections().await? {
                    // It may have ended meanwhile.
                    let _ = self.delete(&format!("/api/connections/{name}")).await;
                }
                Undo::Nothing
            }
            Fault::MemoryAlarm => {
                self.rabbit.ctl(&["set_vm_memory_high_watermark", "0"]).await?;
                Undo::Watermark
            }
            Fault::FullDisk => Undo::Remove(self.disk.fill()),
            Fault::Backup => {
                let closed = self.nobody_writes().await;
                let made = self.backup();
                drop(closed);
                made?;
                Undo::Nothing
            }
            Fault::Restore => {
                let closed = self.nobody_writes().await;
                self.restore().await;
                drop(closed);
                Undo::Nothing
            }
            Fault::RestoreWithoutBroker => {
                let closed = self.nobody_writes().await;
                self.rabbit.kill9();
                self.restore().await;
                drop(closed);
                Undo::StartBroker
            }
        };
        Ok(undo)
    }

    pub async fn end(&mut self, undo: Undo) {
        match undo {
            Undo::Nothing => {}
            Undo::Start(role) => {
                // Unless it was started again because another fault had ended it.
                if self.cluster.pid(&role).is_none() {
                    self.cluster.start(&role);
                }
            }
            Undo::StartBroker => self.rabbit.restart().await.expect("the broker starts"),
            Undo::Resume(role) => self.cluster.pause(&role, false),
            Undo::ResumeBroker => self.rabbit.pause(false),
            Undo::Open(part, from) => self.proxies[&(part, from)].set(Mode::Open),
            Undo::OpenClients => self.clients.set(Mode::Open),
            Undo::Watermark => {
                // The command fails where the broker was killed meanwhile, and with it the alarm.
                let _ = self.rabbit.ctl(&["set_vm_memory_high_watermark", WATERMARK]).await;
            }
            Undo::Remove(path) => std::fs::remove_file(path).expect("the filler is there"),
        }
    }

    fn alive(&self, role: &Role) -> Result<()> {
        if self.stopped.iter().any(|(stopped, ..)| stopped == role) {
            bail!("it is stopped");
        }
        self.cluster.pid(role).map(drop).context("it does not run")
    }

    /// Those that were stopped past their leases go on, unless they were killed meanwhile.
    fn wake(&mut self) {
        let now = Instant::now();
        let due = self.stopped.extract_if(.., |(.., until)| *until <= now);
        for (role, pid, _) in due.collect::<Vec<_>>() {
            println!("  {} goes on", role.name());
            if self.cluster.pid(&role) == Some(pid) {
                self.cluster.pause(&role, false);
            }
        }
    }

    async fn nobody_writes(&self) -> OwnedRwLockWriteGuard<()> {
        std::sync::Arc::clone(&self.shared.gate).write_owned().await
    }

    pub fn backup(&mut self) -> Result<()> {
        let number = self.backups + 1;
        let file = self.backup_file(number);
        let made = self.on_the_database(&["backup", &file]);
        if !made.succeeded() {
            bail!("{}", made.told());
        }
        self.backups = number;
        self.shared.push(Entry::Backup(number));
        Ok(())
    }

    async fn restore(&mut self) {
        let number = self.backups;
        let file = self.backup_file(number);
        self.cluster.kill9(&Role::Apiserver);
        self.on_the_database(&["restore", &file]).ok();
        self.shared.push(Entry::Restored(number));
        self.cluster.start(&Role::Apiserver);
        self.restores += 1;
    }

    fn backup_file(&self, number: u32) -> String {
        self.folder.path().join(format!("{number}.db")).display().to_string()
    }

    pub fn on_the_database(&self, arguments: &[&str]) -> kubectl::Output {
        let mut command = Command::new(binary());
        command.args(arguments).arg("--data-dir").arg(self.cluster.data_dir());
        kubectl::run(command, None)
    }

    async fn delete(&self, path: &str) -> Result<()> {
        let (status, body) = self.rabbit.http(Method::DELETE, path, None).await?;
        if !status.is_success() {
            bail!("{path}: {status}: {body}");
        }
        Ok(())
    }

    async fn get(&self, path: &str) -> Result<Vec<Value>> {
        let (status, body) = self.rabbit.http(Method::GET, path, None).await?;
        match body {
            Value::Array(all) if status.is_success() => Ok(all),
            other => bail!("{path}: {status}: {other}"),
        }
    }

    /// What is exclusive is its owner's, and nobody else can purge or delete it.
    async fn queue(&self, number: u32) -> Result<String> {
        let mut all = self.get("/api/queues").await?;
        all.retain(|queue| queue["exclusive"] == false);
        let mut names: Vec<_> = all.iter().filter_map(|queue| queue["name"].as_str()).collect();
        names.retain(|name| !name.starts_with("amq."));
        names.sort_unstable();
        let name = names.get(number as usize % names.len().max(1)).context("no queue")?;
        Ok((*name).to_owned())
    }

    async fn delete_binding(&self, number: u32) -> Result<()> {
        let path = "/api/exchanges/%2f/warren.events/bindings/source";
        let mut all = self.get(path).await?;
        all.sort_by_key(ToString::to_string);
        let one = all.get(number as usize % all.len().max(1)).context("no binding")?;
        let (queue, key) = (&one["destination"], &one["properties_key"]);
        let text = |value: &Value| value.as_str().unwrap_or_default().replace('#', "%23");
        let (queue, key) = (text(queue), text(key));
        self.delete(&format!("/api/bindings/%2f/e/warren.events/q/{queue}/{key}")).await
    }

    async fn connections(&self) -> Result<Vec<String>> {
        let all = self.get("/api/connections").await?;
        let names = all.iter().filter_map(|one| one["name"].as_str());
        let mut names: Vec<_> =
            names.map(|name| name.replace(' ', "%20").replace('>', "%3E")).collect();
        names.sort();
        Ok(names)
    }

    /// What a supervisor does.
    pub fn supervise(&mut self, down: &[Role]) {
        self.wake();
        for (role, status) in self.cluster.ended() {
            if down.contains(&role) {
                continue;
            }
            println!("  {} ended by itself: {status}", role.name());
            self.ended_by_themselves.push(format!("{}: {status}", role.name()));
            self.cluster.start(&role);
        }
    }
}
