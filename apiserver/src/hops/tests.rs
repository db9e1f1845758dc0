use std::time::Duration;

use futures::FutureExt as _;
use warren_process::trace::{About, Step, Subject, Trace};

use super::questions::Questions;
use super::*;

fn pod() -> Subject {
    Subject::new("", "pods", "default", "web")
}

fn who(instance: &str) -> (String, String) {
    ("controllers".to_owned(), instance.to_owned())
}

fn id_of(questions: &[super::questions::Question]) -> u64 {
    serde_json::to_value(questions).unwrap()[0]["id"].as_u64().unwrap()
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_asked_and_who_is_silent_is_named() {
    let questions = Questions::default();
    let story = questions.ask(&pod()).await;
    assert_eq!(story.missing[0].who, "controllers", "nobody has ever asked");

    let trace = Trace::new("controllers", "a");
    trace.push(Step::Wrote, About { subject: pod(), uid: "u".into(), revision: 3 }, "binding");
    let answering = async {
        let asked = questions.listen(who("a"), 0).await;
        questions.answered(id_of(&asked), trace.report(&pod()));
        // Answers of who was not asked, and a second one of the same, are none.
        questions.answered(id_of(&asked), trace.report(&pod()));
        questions.answered(id_of(&asked), Trace::new("controllers", "c").report(&pod()));
        questions.answered(id_of(&asked) + 1, trace.report(&pod()));
    };
    // `b` asked before, and is busy now.
    assert!(questions.listen(who("b"), 0).now_or_never().is_none());
    let (story, ()) = futures::join!(
        async {
            tokio::task::yield_now().await;
            questions.ask(&pod()).await
        },
        answering
    );
    assert_eq!(story.reports.len(), 1);
    assert_eq!(story.reports[0].report.hops.len(), 1);
    assert_eq!((story.missing.len(), &*story.missing[0].who), (1, "controllers b"));
    assert_eq!(questions.listen(who("a"), 0).await.len(), 0, "it is closed");

    tokio::time::advance(Duration::from_secs(46)).await;
    assert_eq!(questions.ask(&pod()).await.missing[0].who, "controllers", "they are gone");
}

#[test]
fn what_is_asked_is_checked() {
    let check = |text: &str| {
        let uri: http::Uri = format!("/debug/hops?{text}").parse().unwrap();
        let info = crate::request::RequestInfo::of(&Method::GET, &uri).unwrap();
        subject(&info.query).map_err(|status| status.message)
    };
    assert_eq!(check("resource=pods&namespace=default&name=web").unwrap(), pod());
    assert_eq!(check("resource=pods").unwrap_err(), "name: Required value");
    assert_eq!(check("name=x").unwrap_err(), "resource: Required value");
    let long = format!("resource=pods&name=x&namespace={}", "n".repeat(254));
    assert_eq!(check(&long).unwrap_err(), "namespace: Invalid value: must have at most 253 bytes");
}
