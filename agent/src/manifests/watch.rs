//! The folder on disk: file events, with a slow rescan as a net.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{RecursiveMode, Watcher};
use rustix::fs::OFlags;
use tokio::sync::{Notify, mpsc, oneshot};

use super::{FILE_LIMIT, Folder, Problem, StaticPod};
use crate::context::Context;
use crate::events::Level;
use crate::keep::Keep;
use crate::mirror::{self, Mirrors, Wanted};
use crate::pod::manager::{Change, Message, Source};
use crate::status_writer::StatusWriter;

/// The net under lost file events.
const RESCAN: Duration = Duration::from_secs(20);
/// Editors write in several steps: look when it has been quiet for so long.
const QUIET: Duration = Duration::from_millis(100);
/// The folder's files; more are not read.
const FILES: usize = 1000;

/// Asks about the folder's pods from elsewhere.
pub(crate) enum Ask {
    /// Starts the pod of that name (again); false where there is none.
    Start(String, oneshot::Sender<bool>),
    /// Namespace and full name of the pod of that name.
    Find(String, oneshot::Sender<Option<(String, String)>>),
    /// Ends the pod of that name until it is started, or its file changes; false where there is none.
    Stop(String, oneshot::Sender<bool>),
}

/// A handle for commands. Without a folder there are no pods in it.
#[derive(Clone)]
pub(crate) struct StaticSource(pub(crate) mpsc::Sender<Ask>);

impl StaticSource {
    pub(crate) async fn start(&self, name: &str) -> bool {
        let (answer, wait) = oneshot::channel();
        let _ = self.0.send(Ask::Start(name.to_owned(), answer)).await;
        wait.await.unwrap_or(false)
    }

    pub(crate) async fn find(&self, name: &str) -> Option<(String, String)> {
        let (answer, wait) = oneshot::channel();
        let _ = self.0.send(Ask::Find(name.to_owned(), answer)).await;
        wait.await.unwrap_or(None)
    }

    pub(crate) async fn stop(&self, name: &str) -> bool {
        let (answer, wait) = oneshot::channel();
        let _ = self.0.send(Ask::Stop(name.to_owned(), answer)).await;
        wait.await.unwrap_or(false)
    }
}

struct Watch {
    context: Arc<Context>,
    keep: Arc<dyn Keep>,
    mirrors: Mirrors,
    writer: StatusWriter,
    manager: mpsc::Sender<Message>,
    dir: PathBuf,
    folder: Folder,
    running: HashMap<(String, String), Arc<str>>,
    /// Ended by a command, by uid: another file is another pod.
    stopped: BTreeSet<Arc<str>>,
    /// What was said of a file, so that it is said once.
    said: BTreeMap<PathBuf, Problem>,
}

/// What the folder's task works with.
pub(crate) struct Parts {
    pub context: Arc<Context>,
    pub keep: Arc<dyn Keep>,
    pub mirrors: Mirrors,
    pub writer: StatusWriter,
    pub manager: mpsc::Sender<Message>,
    pub dir: PathBuf,
}

/// Follows the folder. `read` is told when the first scan is done. Never ends.
pub(crate) async fn run(parts: Parts, mut asks: mpsc::Receiver<Ask>, read: oneshot::Sender<()>) {
    let Parts { context, keep, mirrors, writer, manager, dir } = parts;
    let folder = Folder::new(warren_api::Registry::builtin(), &context.node.0, is_local);
    let mut watch = Watch {
        context,
        keep,
        mirrors,
        writer,
        manager,
        dir,
        folder,
        running: HashMap::new(),
        stopped: BTreeSet::new(),
        said: BTreeMap::new(),
    };
    watch.restore().await;
    watch.scan().await;
    let _ = read.send(());
    let changed = Arc::new(Notify::new());
    let mut events = None;
    loop {
        if events.is_none() {
            events = watch.follow(&changed);
        }
        tokio::select! {
            () = changed.notified() => {
                tokio::time::sleep(QUIET).await;
                watch.scan().await;
            }
            () = tokio::time::sleep(RESCAN) => {
                if !watch.dir.is_dir() {
                    events = None;
                }
                watch.scan().await;
            }
            Some(ask) = asks.recv() => watch.ask(ask).await,
        }
    }
}

/// Whether an address is this host's: only then can it be bound.
fn is_local(ip: std::net::IpAddr) -> bool {
    std::net::UdpSocket::bind((ip, 0)).is_ok()
}

impl Watch {
    /// The last good versions, for files that are broken by now.
    async fn restore(&mut self) {
        match self.keep.manifests().await {
            Ok(kept) => {
                for (path, text) in kept {
                    let text = String::from_utf8_lossy(&text);
                    if let Err(problem) = self.folder.put(Path::new(&path), &text) {
                        tracing::warn!(%problem, "a kept manifest can no longer be used");
                    }
                }
            }
            Err(error) => tracing::error!(%error, "the kept manifests cannot be read"),
        }
    }

    fn follow(&self, changed: &Arc<Notify>) -> Option<notify::RecommendedWatcher> {
        let changed = Arc::clone(changed);
        let watcher = notify::recommended_watcher(move |_event| changed.notify_one());
        let watch = |mut watcher: notify::RecommendedWatcher| {
            watcher.watch(&self.dir, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        };
        match watcher.and_then(watch) {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                tracing::debug!(dir = %self.dir.display(), %error, "no file events; rescanning");
                None
            }
        }
    }

    async fn scan(&mut self) {
        let dir = self.dir.clone();
        let known = self.folder.paths().into_iter().collect();
        let found = tokio::task::spawn_blocking(move || read_dir(&dir, &known)).await;
        let found = match found.map_err(io::Error::other).flatten() {
            Ok(found) => found,
            // No folder: no pods are asked for. Anything else is not to be taken for that.
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => {
                tracing::warn!(dir = %self.dir.display(), %error, "the manifests folder cannot be read");
                return;
            }
        };
        for path in self.folder.paths() {
            if !found.contains_key(&path) {
                self.folder.remove(&path);
                self.said.remove(&path);
                self.put(&path, None).await;
            }
        }
        let mut problems = Vec::new();
        for (path, text) in found {
            let result = match text {
                Ok(text) => self.folder.put(&path, &text).map(|changed| (changed, text)),
                Err(reason) => Err(Problem { file: path.clone(), line: 0, reason }),
            };
            match result {
                Ok((true, text)) => {
                    self.said.remove(&path);
                    self.put(&path, Some(text.into())).await;
                }
                Ok((false, _)) => {}
                Err(problem) => problems.push(problem),
            }
        }
        let resolved = self.folder.resolve();
        for problem in problems {
            let keeps = self.folder.is_good(&problem.file);
            self.say(problem, keeps);
        }
        for problem in resolved.conflicts {
            self.say(problem, false);
        }
        self.apply(resolved.pods).await;
    }

    async fn put(&self, path: &Path, text: Option<bytes::Bytes>) {
        if let Err(error) = self.keep.put_manifest(&path.to_string_lossy(), text).await {
            tracing::error!(%error, path = %path.display(), "a manifest was not kept");
        }
    }

    /// Starts, ends and mirrors what changed.
    async fn apply(&mut self, pods: BTreeMap<(String, String), StaticPod>) {
        let pods: BTreeMap<_, _> =
            pods.into_iter().filter(|(_, pod)| !self.stopped.contains(&pod.uid)).collect();
        let seen = self.context.now();
        let ended: Vec<_> = self
            .running
            .iter()
            .filter(|(key, uid)| pods.get(*key).is_none_or(|pod| pod.uid != **uid))
            .map(|(key, uid)| (key.clone(), uid.clone()))
            .collect();
        for (key, uid) in ended {
            self.running.remove(&key);
            self.tell(Change::Remove(uid, None)).await;
        }
        let mut wanted = BTreeMap::new();
        for (key, pod) in pods {
            let mut body = pod.mirror();
            body["metadata"]["annotations"][mirror::SEEN] = seen.to_string().into();
            wanted.insert(key.clone(), Wanted { uid: pod.uid.clone(), body: Arc::new(body) });
            if self.running.contains_key(&key) {
                continue;
            }
            match pod.pod() {
                Ok(typed) => {
                    tracing::info!(pod = %format!("{}/{}", key.0, key.1), "running a static pod");
                    self.running.insert(key, pod.uid);
                    self.tell(Change::Upsert(Arc::new(typed), Source::Static)).await;
                }
                Err(error) => tracing::error!(%error, "a static pod cannot be read"),
            }
        }
        self.mirrors.set_wanted(wanted);
        self.writer.wake();
    }

    /// Once in the log and once as an Event, until the file changes. `keeps`: what the file said before goes on.
    fn say(&mut self, problem: Problem, keeps: bool) {
        if self.said.get(&problem.file) == Some(&problem) {
            return;
        }
        tracing::warn!(
            file = %problem.file.display(),
            line = problem.line,
            reason = %problem.reason,
            keeps,
            "a manifest cannot be used"
        );
        let after = if keeps { "; the pod of its last good version goes on" } else { "" };
        let message = format!("{problem}{after}");
        // The pod that runs from the file hears of it too.
        let events = &self.context.events;
        events.node(&self.context.node, Level::Warning, "BadManifest", &message);
        self.said.insert(problem.file.clone(), problem);
    }

    async fn ask(&mut self, ask: Ask) {
        match ask {
            Ask::Find(name, answer) => {
                let found = self.folder.find(&name);
                let _ = answer.send(found.map(|pod| (pod.namespace, pod.name)));
            }
            Ask::Start(name, answer) => {
                let found = self.folder.find(&name);
                if let Some(pod) = &found {
                    self.stopped.remove(&pod.uid);
                }
                let pods = self.folder.resolve().pods;
                self.apply(pods).await;
                let _ = answer.send(found.is_some());
            }
            Ask::Stop(name, answer) => {
                let found = self.folder.find(&name);
                if let Some(pod) = &found {
                    self.stopped.insert(pod.uid.clone());
                }
                let pods = self.folder.resolve().pods;
                self.apply(pods).await;
                let _ = answer.send(found.is_some());
            }
        }
    }

    async fn tell(&self, change: Change) {
        let _ = self.manager.send(Message::Change(change)).await;
    }
}

type Texts = BTreeMap<PathBuf, Result<String, String>>;

/// What the folder's files say. Those that are `known` come first: however many others are put there, what runs stays.
fn read_dir(dir: &Path, known: &BTreeSet<PathBuf>) -> io::Result<Texts> {
    let mut paths = BTreeSet::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if Folder::is_manifest(&path) {
            paths.insert((!known.contains(&path), path));
        }
    }
    let mut found = Texts::new();
    for (is_new, path) in paths {
        if found.len() >= FILES {
            tracing::warn!(dir = %dir.display(), limit = FILES, "too many manifests");
            break;
        }
        if let Some(text) = read(&path, is_new) {
            found.insert(path, text);
        }
    }
    Ok(found)
}

/// `None` where there is no file. What cannot be read, or what is in a file's place, is a problem and not the file's end.
fn read(path: &Path, is_new: bool) -> Option<Result<String, String>> {
    let text = || -> io::Result<Result<String, String>> {
        // Some special files would make an open or a read wait for ever.
        let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
        let file = File::options().read(true).custom_flags(flags).open(path)?;
        let metadata = file.metadata()?;
        if metadata.is_dir() && is_new {
            return Err(io::ErrorKind::NotFound.into());
        }
        if !metadata.is_file() {
            return Ok(Err("not a regular file".to_owned()));
        }
        let mut bytes = Vec::new();
        // Also where its size is not what it says.
        file.take(FILE_LIMIT + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > FILE_LIMIT {
            return Ok(Err(format!("larger than {FILE_LIMIT} bytes")));
        }
        Ok(String::from_utf8(bytes).map_err(|error| format!("not UTF-8: {error}")))
    };
    match text() {
        Ok(text) => Some(text),
        // Also a link that leads nowhere: what it led to is gone.
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => Some(Err(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_is_read_before_what_is_new() {
        let dir = tempfile::tempdir().unwrap();
        let known = dir.path().join("zz.yaml");
        std::fs::write(&known, "known").unwrap();
        for n in 0..FILES + 10 {
            std::fs::write(dir.path().join(format!("a{n}.yaml")), "new").unwrap();
        }
        let found = read_dir(dir.path(), &BTreeSet::from([known.clone()])).unwrap();
        assert_eq!(found.len(), FILES);
        assert_eq!(found[&known].as_deref(), Ok("known"));
    }

    #[test]
    fn what_is_no_file_is_told_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        rustix::fs::mkfifoat(rustix::fs::CWD, path("fifo"), 0o600.into()).unwrap();
        std::os::unix::fs::symlink(path("loop"), path("loop")).unwrap();
        std::os::unix::fs::symlink(path("nowhere"), path("gone")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", path("device")).unwrap();
        for folder in ["folder", "other"] {
            std::fs::create_dir(path(folder)).unwrap();
        }
        File::create(path("large")).unwrap().set_len(1 << 40).unwrap();
        let found = read_dir(dir.path(), &BTreeSet::from([path("folder")])).unwrap();
        for (name, reason) in [
            ("fifo", "not a regular file"),
            ("loop", "symbolic links"),
            ("device", "not a regular file"),
            ("folder", "not a regular file"),
            ("large", "larger than"),
        ] {
            let told = found[&path(name)].as_ref().unwrap_err();
            assert!(told.contains(reason), "{name}: {told}");
        }
        for name in ["gone", "other"] {
            assert!(!found.contains_key(&path(name)), "{name}");
        }
    }
}
