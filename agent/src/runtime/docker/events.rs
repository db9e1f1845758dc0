//! The daemon's events, for as long as somebody reads them.

use bollard::query_parameters::EventsOptions;

use super::*;

const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_LAST: Duration = Duration::from_secs(5);

/// Follows the events of our containers. After every loss a relist is asked for.
pub(super) async fn follow(
    daemon: &Daemon,
    config: DockerConfig,
    send: mpsc::Sender<RuntimeEvent>,
) {
    let mut wait = RETRY_FIRST;
    let mut down = false;
    let mut overflowed = false;
    loop {
        // Before the daemon answers the ping, so that nothing falls between it and the stream.
        let since = jiff::Timestamp::now().as_second();
        let docker = match answering(daemon).await {
            Ok(docker) => docker,
            Err(error) => {
                if !std::mem::replace(&mut down, true) {
                    let _ = send.send(RuntimeEvent::Down(error.to_string())).await;
                }
                if send.is_closed() {
                    return;
                }
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(RETRY_LAST);
                continue;
            }
        };
        down = false;
        wait = RETRY_FIRST;
        if send.send(RuntimeEvent::Relist).await.is_err() {
            return;
        }
        let filters = HashMap::from([
            ("type".to_owned(), vec!["container".to_owned()]),
            ("event".to_owned(), ["start", "die", "oom", "destroy"].map(str::to_owned).to_vec()),
            (
                "label".to_owned(),
                vec![
                    format!("{}={}", label::CLUSTER, config.cluster),
                    format!("{}={}", label::NODE, config.node),
                ],
            ),
        ]);
        let options =
            EventsOptions { since: Some(since.to_string()), until: None, filters: Some(filters) };
        let mut events = std::pin::pin!(docker.events(Some(options)));
        while let Some(event) = events.next().await {
            let Ok(event) = event else { break };
            let attributes = event.actor.and_then(|a| a.attributes).unwrap_or_default();
            let Some(uid) = attributes.get(label::UID) else { continue };
            let event = if overflowed {
                RuntimeEvent::Relist
            } else {
                RuntimeEvent::Pod(uid.as_str().into())
            };
            match send.try_send(event) {
                Ok(()) => overflowed = false,
                Err(mpsc::error::TrySendError::Full(_)) => overflowed = true,
                Err(mpsc::error::TrySendError::Closed(_)) => return,
            }
        }
    }
}

async fn answering(daemon: &Daemon) -> Result<&Docker> {
    let docker = daemon.client()?;
    docker.ping().await.map_err(|error| failed("ping", error))?;
    Ok(docker)
}
