//! What a component without a port remembers of changes, told to the API server when it asks: `warren trace`.

use std::time::Duration;

use http::Request;
use serde::Deserialize;
use serde_json::Value;
use warren_process::Tasks;
use warren_process::trace::{Subject, Trace};

/// After a question could not be had: the server is away, or an older one that asks nothing.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// The server answers after 20 seconds where there is no question; one that has vanished never does.
const PATIENCE: Duration = Duration::from_secs(40);

#[derive(Debug, Deserialize)]
struct Question {
    id: u64,
    group: String,
    resource: String,
    namespace: String,
    name: String,
}

/// Asks the server for questions and answers them, until shutdown. The trace's instance must need no escaping in a URL. A request waits at the server all the time; it
/// writes nothing, and needs no broker.
pub fn answer_questions(client: kube::Client, trace: Trace, tasks: &Tasks) {
    let shutdown = tasks.shutdown().clone();
    tasks.spawn("hops", async move {
        tokio::select! {
            () = shutdown.draining() => {}
            () = answer(&client, &trace) => {}
        }
    });
}

async fn answer(client: &kube::Client, trace: &Trace) {
    let who = format!("component={}&instance={}", trace.component(), trace.instance());
    let (mut after, mut wait) = (0, RETRY.0);
    loop {
        let asked = tokio::time::timeout(PATIENCE, questions(client, &who, after)).await;
        let questions = match asked {
            Ok(Ok(questions)) => questions,
            failed => {
                if let Ok(Err(error)) = failed {
                    tracing::debug!(%error, "nobody asks for hops");
                }
                tokio::time::sleep(wait.mul_f64(rand::random_range(0.5..1.0))).await;
                wait = (wait * 2).min(RETRY.1);
                continue;
            }
        };
        wait = RETRY.0;
        // A server that was restarted counts from the beginning, and says so by smaller numbers.
        after = questions.last().map_or(after, |question| question.id);
        for question in questions {
            let Question { id, group, resource, namespace, name } = question;
            let report = trace.report(&Subject::new(group, resource, namespace, name));
            let sent = async {
                let body = serde_json::to_vec(&report)?;
                let request = Request::post(format!("/debug/hops/answers?id={id}"))
                    .header(http::header::CONTENT_TYPE, "application/json")
                    .body(body)?;
                client.request::<Value>(request).await?;
                Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
            };
            if let Err(error) = sent.await {
                tracing::debug!(%error, "hops could not be told");
            }
        }
    }
}

async fn questions(
    client: &kube::Client,
    who: &str,
    after: u64,
) -> Result<Vec<Question>, Box<dyn std::error::Error + Send + Sync>> {
    let request =
        Request::get(format!("/debug/hops/questions?{who}&after={after}")).body(Vec::new())?;
    Ok(client.request(request).await?)
}
