//! Runs the election: its operations on the Lease, the leader's queue, and time.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use http::Request;
use k8s_openapi::api::coordination::v1::Lease as LeaseObject;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior};
use warren_api::LEADER_QUEUE;
use warren_broker::election::{Action, Election, Input, Timing};
use warren_broker::{Heard, LeaderQueue};
use warren_process::{Clock, Seldom, Shutdown, SystemClock, Tasks};

use super::{Leadership, Shared, lease};

const TICK: Duration = Duration::from_millis(100);
/// For an operation on the Lease; an API that takes longer is away.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);
/// Two that see the same do not act at the same time.
const JITTER: Duration = Duration::from_millis(100);
/// How long workers may finish what they have begun before the Lease is given back.
const FINISH_WITHIN: Duration = Duration::from_secs(2);

/// Where a Lease is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub namespace: String,
    pub name: String,
}

/// Takes part in the election of a leader.
pub struct Campaign {
    pub client: kube::Client,
    pub lease: Place,
    /// Unique among all processes that ever take part.
    pub identity: String,
    /// The broker's, where there is one.
    pub queue: Option<LeaderQueue>,
}

impl Campaign {
    /// Takes part until shutdown, and then gives the Lease back.
    pub fn start(self, tasks: &Tasks) -> Leadership {
        let leadership = Leadership::elected(self.lease.clone(), self.identity.clone());
        if let Some(shared) = leadership.0.clone() {
            let timing = if self.queue.is_some() { Timing::BROKER } else { Timing::CLOCK };
            let jitter = JITTER.mul_f64(rand::random());
            let election = Election::new(self.identity, timing, jitter, Duration::ZERO);
            let shutdown = tasks.shutdown().clone();
            let queue_name = self.queue.as_ref().map_or_else(String::new, |q| q.name().to_owned());
            let run = Run {
                client: self.client,
                queue: self.queue,
                shared,
                election,
                began: Instant::now(),
                queue_name,
                operation: None,
                said: None,
                answered: None,
                log: Seldom::default(),
                leaving: false,
                away: false,
            };
            tasks.spawn_critical("leader election", async move {
                tokio::select! {
                    () = run.run(&shutdown) => {}
                    () = shutdown.aborting() => {}
                }
                Ok::<_, std::convert::Infallible>(())
            });
        }
        leadership
    }
}

struct Run {
    client: kube::Client,
    queue: Option<LeaderQueue>,
    shared: Arc<Shared>,
    election: Election,
    /// Written into the Lease, so that others find the leader's queue.
    queue_name: String,
    began: Instant,
    operation: Option<BoxFuture<'static, Input>>,
    /// Who leads, as last logged.
    said: Option<(Option<String>, u64)>,
    /// Who answers, as last logged.
    answered: Option<(String, u64)>,
    /// Whoever may write to the leader's queue can be anybody by turns.
    log: Seldom,
    leaving: bool,
    away: bool,
}

impl Run {
    async fn run(mut self, shutdown: &Shutdown) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut refused = self.shared.refused.subscribe();
        let mut leaves = Some(leave(shutdown, &self.shared).boxed());
        loop {
            let heard = async {
                match &mut self.queue {
                    Some(queue) => queue.next().await,
                    None => std::future::pending().await,
                }
            };
            let operation = async {
                match &mut self.operation {
                    Some(operation) => operation.await,
                    None => std::future::pending().await,
                }
            };
            let leaving = async {
                match &mut leaves {
                    Some(leaves) => leaves.await,
                    None => std::future::pending().await,
                }
            };
            let input = tokio::select! {
                _ = tick.tick() => Input::Tick,
                input = operation => {
                    self.operation = None;
                    input
                }
                heard = heard => match heard {
                    Heard::Joined => Input::Joined,
                    Heard::Parted => Input::Parted,
                    Heard::Ping(word) => Input::Ping(word),
                    Heard::Pong(word) => Input::Pong(word),
                },
                _ = refused.changed() => Input::Fenced(*refused.borrow_and_update()),
                () = leaving => {
                    leaves = None;
                    self.leaving = true;
                    Input::Leave
                }
            };
            self.tell(&input);
            for action in self.election.step(self.began.elapsed(), input) {
                if action == Action::Done {
                    return;
                }
                self.act(action);
            }
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Ping(word) => self.queue.iter().for_each(|queue| queue.ping(word.clone())),
            Action::Pong { to, word } => {
                if let Some(queue) = &self.queue {
                    queue.pong(to, word);
                }
            }
            Action::Rejoin => self.queue.iter().for_each(LeaderQueue::rejoin),
            Action::Lead(term) => {
                tracing::info!(term, identity = self.shared.identity, "leading");
                self.said = None;
                self.shared.lead(term);
            }
            Action::StepDown => {
                let identity = &self.shared.identity;
                match self.leaving {
                    true => tracing::info!(identity, "leading no more"),
                    false => tracing::warn!(identity, "leading no more"),
                }
                self.answered = None;
                self.shared.step_down();
            }
            Action::Done => {}
            operation
            @ (Action::Read | Action::Take(_) | Action::Renew(_) | Action::Release(_)) => {
                let mut change = lease::change(&operation, &micros());
                if let Action::Take(lease) = &operation {
                    tracing::info!(term = lease.term, "taking the lease over");
                    if let Some(change) = &mut change {
                        change["metadata"]["annotations"] = json!({LEADER_QUEUE: self.queue_name});
                    }
                }
                self.operate(change);
            }
        }
    }

    fn operate(&mut self, change: Option<Value>) {
        let (client, place) = (self.client.clone(), self.shared.lease.clone());
        self.operation = Some(
            async move {
                let operation = operate(&client, &place, change);
                match tokio::time::timeout(ANSWERS_WITHIN, operation).await {
                    Ok(input) => input,
                    Err(_) => Input::Failed,
                }
            }
            .boxed(),
        );
    }

    /// What people should know.
    fn tell(&mut self, input: &Input) {
        match input {
            Input::Lease(lease) => {
                self.shared.newest.fetch_max(lease.term, std::sync::atomic::Ordering::Relaxed);
                let known = (lease.holder.clone(), lease.term);
                if lease.holder.as_ref() != Some(&self.shared.identity)
                    && self.said.as_ref() != Some(&known)
                {
                    let leader = lease.holder.as_deref().unwrap_or("nobody");
                    tracing::info!(leader, term = lease.term, "standing by");
                    self.said = Some(known);
                }
                if std::mem::take(&mut self.away) {
                    tracing::info!("the API answers about the lease again");
                }
            }
            Input::Failed if !std::mem::replace(&mut self.away, true) => {
                tracing::warn!("the API does not answer about the lease; all stays as it is");
            }
            Input::Parted => {
                self.answered = None;
                tracing::warn!("the leader's queue is away; the lease's clock decides");
            }
            Input::Joined => tracing::debug!("the leader's queue is there"),
            Input::Pong(word) if word.holder.as_ref() == Some(&word.from) => {
                let answered = (word.from.clone(), word.term);
                if self.answered.as_ref() != Some(&answered)
                    && let Some(left_out) = self.log.pass("answers")
                {
                    let (leader, term) = (&word.from, word.term);
                    tracing::info!(leader, term, left_out, "the leader answers");
                    self.answered = Some(answered);
                }
            }
            _ => {}
        }
    }
}

/// The workers take nothing new from the first signal on.
fn leave(shutdown: &Shutdown, shared: &Arc<Shared>) -> impl Future<Output = ()> + Send + 'static {
    let (shutdown, shared) = (shutdown.clone(), Arc::clone(shared));
    async move {
        shutdown.draining().await;
        shared.turns.close();
        let _ = tokio::time::timeout(FINISH_WITHIN, shared.turns.wait()).await;
    }
}

fn micros() -> String {
    // As Kubernetes' MicroTime.
    SystemClock.now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// Reads the Lease, or changes the version that the change names; an empty one is a Lease that is to be made.
async fn operate(client: &kube::Client, place: &Place, change: Option<Value>) -> Input {
    let Place { namespace, name } = place;
    let all = format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases");
    let is_read = change.is_none();
    let request = match change {
        None => Request::get(format!("{all}/{name}")).body(Vec::new()),
        Some(mut lease) if lease["metadata"]["resourceVersion"] == "" => {
            let annotations = lease["metadata"]["annotations"].take();
            lease["metadata"] =
                json!({"name": name, "namespace": namespace, "annotations": annotations});
            lease["apiVersion"] = "coordination.k8s.io/v1".into();
            lease["kind"] = "Lease".into();
            let request = Request::post(all).header("content-type", "application/json");
            request.body(lease.to_string().into_bytes())
        }
        Some(change) => Request::patch(format!("{all}/{name}"))
            .header("content-type", "application/merge-patch+json")
            .body(change.to_string().into_bytes()),
    };
    let Ok(request) = request else { return Input::Failed };
    match client.request::<LeaseObject>(request).await {
        Ok(lease) => Input::Lease(lease::read(lease)),
        Err(error) => {
            let input = match &error {
                kube::Error::Api(status) => lease::refused(status.code, is_read),
                _ => Input::Failed,
            };
            if input == Input::Failed {
                tracing::debug!(%error, "an operation on the lease failed");
            }
            input
        }
    }
}
