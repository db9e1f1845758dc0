use std::convert::Infallible;

use http::{Request, Response};
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::json;

use super::*;

/// A server that answers with this code, header and body, and the requests that it got.
fn server(
    code: u16,
    told: Option<&'static str>,
    body: &Value,
) -> (KubeApi, Arc<Mutex<Vec<String>>>) {
    let (seen, body) = (Arc::new(Mutex::new(Vec::new())), body.to_string());
    let log = Arc::clone(&seen);
    let service = tower::service_fn(move |request: Request<Body>| {
        let header = |name: &str| {
            let value = request.headers().get(name).and_then(|value| value.to_str().ok());
            value.map(|value| format!(" {name}: {value}")).unwrap_or_default()
        };
        let (asked, by) = (header(heads::ASK), header("impersonate-user"));
        log.lock().push(format!("{} {}{asked}{by}", request.method(), request.uri()));
        let answer = told.into_iter().fold(Response::builder().status(code), |answer, told| {
            answer.header(heads::TOLD, told)
        });
        let answer = answer.body(Body::from(body.clone().into_bytes()));
        async move { Ok::<_, Infallible>(answer.unwrap()) }
    });
    (KubeApi::new(kube::Client::new(service, "default")), seen)
}

#[tokio::test]
async fn a_list_says_of_which_database_it_is() {
    let list = json!({"apiVersion": "v1", "kind": "PodList", "metadata": {"resourceVersion": "7"},
        "items": [{"metadata": {"name": "a"}}]});
    for (told, epoch) in [
        (Some("epoch=3 published=9 pods/node~n1=7"), Some(3)),
        (None, None),
        (Some("epoch=many"), None),
    ] {
        let (api, seen) = server(200, told, &list);
        let list = api.pods("n1").await.unwrap();
        assert_eq!((list.pods.len(), list.at, list.epoch), (1, Revision(7), epoch), "{told:?}");
        assert_eq!(
            seen.lock()[..],
            ["GET /api/v1/pods?fieldSelector=spec.nodeName%3Dn1 warren-streams: node=n1"]
        );
    }
}

#[tokio::test]
async fn a_heartbeat_is_good_whatever_stands_in_the_header() {
    let asked = Asked::Node { name: NodeName("n1".into()), lost: true };
    for (told, heads) in [
        (Some("epoch=3 published=9"), Some("epoch=3 published=9")),
        (Some("\u{fc}\u{fc}"), None),
        (Some("epoch=3"), None),
        (None, None),
    ] {
        let (api, seen) = server(200, told, &json!({}));
        let answer = api.patch_lease("n1", &json!({}), Some(&asked)).await.unwrap();
        assert_eq!(answer.map(|heads| heads.to_string()).as_deref(), heads, "{told:?}");
        assert!(seen.lock()[0].ends_with(" warren-streams: node=n1; lost"), "{seen:?}");
    }
}

#[tokio::test]
async fn what_the_server_refuses_is_read() {
    let status = json!({"kind": "Status", "status": "Failure", "code": 409,
        "reason": "AlreadyExists", "message": "it is there"});
    let (api, seen) = server(409, None, &status);
    let by = "system:broker:alice".to_owned();
    let error = api.create_pod(&json!({}), Some(&by)).await.unwrap_err();
    assert_eq!(error, ApiError::AlreadyExists("it is there".into()));
    assert!(seen.lock()[0].ends_with(" impersonate-user: system:broker:alice"), "{seen:?}");
    let (api, _) = server(502, None, &json!("no upstream"));
    let error = api.patch_lease("n1", &json!({}), None).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
}
