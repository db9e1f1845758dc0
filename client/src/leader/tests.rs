use std::convert::Infallible;
use std::time::Duration;

use http::{Request, Response};
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::*;
use warren_process::Number;

fn elected() -> Leadership {
    let lease = Place { namespace: "ns".to_owned(), name: "l".to_owned() };
    Leadership::elected(lease, "me".to_owned())
}

fn shared(leadership: &Leadership) -> &Shared {
    leadership.0.as_ref().unwrap()
}

/// An API that notes the fences of what it gets, and answers a write in the name of term 1 that the term is over.
fn api(seen: &Arc<Mutex<Vec<String>>>) -> kube::Client {
    let seen = Arc::clone(seen);
    let service = tower::service_fn(move |request: Request<Body>| {
        let seen = Arc::clone(&seen);
        async move {
            let fence =
                request.headers().get("warren-fence").map(|f| f.to_str().unwrap().to_owned());
            let fence = fence.unwrap_or_else(|| "none".to_owned());
            seen.lock().push(format!("{} {fence}", request.method()));
            if request.uri().path() == "/never" {
                std::future::pending::<()>().await;
            }
            let over = fence.contains("@1/");
            let body = match over {
                true => {
                    json!({"kind": "Status", "status": "Failure", "code": 409, "reason": "Conflict",
                    "message": "over", "details": {"causes": [{"reason": "TermOver"}]}})
                }
                false => json!({}),
            };
            let code = if over { 409 } else { 200 };
            let body = Body::from(body.to_string().into_bytes());
            Ok::<_, Infallible>(Response::builder().status(code).body(body).unwrap())
        }
    });
    kube::Client::new(service, "default")
}

async fn send(client: &kube::Client, method: &str, path: &str) -> Result<Value, kube::Error> {
    let request = Request::builder().method(method).uri(path).body(Vec::new()).unwrap();
    client.request::<Value>(request).await
}

#[tokio::test]
async fn writes_carry_the_term_and_end_with_it() {
    let (leadership, seen) = (elected(), Arc::default());
    let client = leadership.fenced(api(&seen));
    // Who stands by reads, and writes nothing.
    send(&client, "GET", "/x").await.unwrap();
    assert!(matches!(send(&client, "POST", "/x").await, Err(kube::Error::Service(_))));
    assert_eq!(*seen.lock(), ["GET none"]);
    assert!(leadership.turn_now().is_none());

    shared(&leadership).lead(2);
    send(&client, "PATCH", "/x").await.unwrap();
    assert_eq!(seen.lock().pop().unwrap(), "PATCH ns/l@2/me");

    // What is on its way when the term ends is abandoned.
    let waits = send(&client, "DELETE", "/never");
    let ends = async {
        while !seen.lock().iter().any(|seen| seen.starts_with("DELETE")) {
            tokio::task::yield_now().await;
        }
        shared(&leadership).step_down();
    };
    let (waited, ()) = tokio::join!(waits, ends);
    assert!(matches!(waited, Err(kube::Error::Service(_))));
}

#[tokio::test]
async fn what_was_decided_in_one_term_is_not_written_in_another() {
    let (leadership, seen) = (elected(), Arc::default());
    let client = leadership.fenced(api(&seen));
    shared(&leadership).lead(2);
    let turn = leadership.turn().await;
    shared(&leadership).step_down();
    shared(&leadership).lead(4);
    let late = turn.run(send(&client, "POST", "/x")).await;
    assert!(matches!(late, Err(kube::Error::Service(_))));
    leadership.turn().await.run(send(&client, "POST", "/x")).await.unwrap();
    assert_eq!(*seen.lock(), ["POST ns/l@4/me"]);
}

#[tokio::test]
async fn a_refused_write_ends_the_term_at_once() {
    let (leadership, seen) = (elected(), Arc::default());
    let client = leadership.fenced(api(&seen));
    shared(&leadership).lead(1);
    let mut refused = shared(&leadership).refused.subscribe();
    let Err(kube::Error::Api(status)) = send(&client, "POST", "/x").await else { panic!() };
    assert_eq!((status.code, &*status.message), (409, "over"), "the answer comes whole");
    assert_eq!(leadership.term(), None);
    refused.changed().await.unwrap();
    assert_eq!(*refused.borrow(), 1);
    let counted = |name| {
        let all = leadership.families();
        let family = all.iter().find(|family| family.name == format!("leader_{name}")).unwrap();
        family.samples[0].number.clone()
    };
    assert_eq!(
        ["takeovers", "losses", "refusals"].map(counted),
        [(); 3].map(|()| Number::Count(1))
    );
}

#[tokio::test(start_paused = true)]
async fn who_stands_by_waits_for_its_turn() {
    let leadership = elected();
    let waits = tokio::time::timeout(Duration::from_secs(60), leadership.turn());
    assert!(waits.await.is_err());
    let seen = leadership.term();
    let changed = leadership.changed(seen);
    shared(&leadership).lead(3);
    changed.await;
    assert_eq!(leadership.turn().await.run(async { leadership.term() }).await, Some(3));
    // Without an election everybody leads, and nothing is fenced.
    let (always, seen) = (Leadership::always(), Arc::default());
    let client = always.fenced(api(&seen));
    always.turn().await.run(send(&client, "POST", "/x")).await.unwrap();
    assert_eq!(*seen.lock(), ["POST none"]);
}
