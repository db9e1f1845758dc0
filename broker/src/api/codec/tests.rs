use expect_test::expect;
use proptest::prelude::*;

use super::*;

fn table(entries: &[(&str, AMQPValue)]) -> BasicProperties {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert((*name).into(), value.clone());
    }
    BasicProperties::default().with_headers(table)
}

fn list(texts: &[&str]) -> AMQPValue {
    AMQPValue::FieldArray(FieldArray::from(texts.iter().map(|t| text(t)).collect::<Vec<_>>()))
}

fn headers(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
}

#[test]
fn a_request_comes_as_it_went() {
    let request = ApiRequest {
        method: "PATCH".to_owned(),
        path: "/api/v1/namespaces/a/pods/b?fieldManager=c".to_owned(),
        headers: headers(&[
            ("accept", "application/json"),
            ("impersonate-group", "a"),
            ("impersonate-group", "b"),
            ("warren-fence", "kube-system/x@7"),
            ("authorization", "Bearer secret"),
            ("content-type", "application/merge-patch+json"),
        ]),
        body: Bytes::from_static(b"{}"),
    };
    let envelope = Envelope {
        account: "node-a",
        id: "1",
        reply_to: "q",
        correlation_id: "2",
        expires: Duration::from_millis(1500),
        again: true,
    };
    let properties = of_request(&request, &envelope);
    assert_eq!(patience(&properties), envelope.expires);
    assert!(is_again(&properties));
    let read = read_request(&properties, request.body.clone()).unwrap();
    let mut sent = request.headers.clone();
    sent.retain(|(name, _)| name != "authorization");
    let sorted = |mut headers: Vec<(String, String)>| {
        headers.sort();
        headers
    };
    assert_eq!(sorted(read.headers), sorted(sent));
    assert_eq!((read.method, read.path), (request.method, request.path));
}

#[test]
fn an_answer_comes_as_it_went() {
    let answer = ApiAnswer {
        code: 201,
        headers: headers(&[
            ("warning", "299 - \"a\""),
            ("warning", "299 - \"b\""),
            ("warren-heads", "1/2"),
            ("set-cookie", "x"),
            ("content-type", "application/json"),
        ]),
        body: Bytes::from_static(b"{}"),
    };
    let properties = of_answer(&answer, "server", Some("7"));
    assert_eq!(properties.correlation_id().as_ref().unwrap().as_str(), "7");
    let mut read = read_answer(&properties, answer.body.clone()).unwrap();
    read.headers.sort();
    let mut sent = answer;
    sent.headers.retain(|(name, _)| name != "set-cookie");
    sent.headers.sort();
    assert_eq!(read, sent);
}

#[test]
fn what_is_wrong_is_named() {
    let good = |more: &[(&str, AMQPValue)]| {
        let mut all = vec![("method", text("GET")), ("path", text("/api"))];
        all.retain(|(name, _)| !more.iter().any(|(other, _)| other == name));
        all.extend(more.iter().cloned());
        table(&all)
    };
    let long = "x".repeat(MAX_HEADER_BYTES + 1);
    let many = vec!["x"; MAX_HEADERS + 1];
    let all = [
        BasicProperties::default(),
        table(&[("method", text("GET"))]),
        table(&[("path", text("/api"))]),
        good(&[("method", AMQPValue::Boolean(true))]),
        good(&[("method", text("get"))]),
        good(&[("method", text("CONNECT"))]),
        good(&[("path", AMQPValue::LongString(vec![b'/', 0xff].into()))]),
        good(&[("path", text("api"))]),
        good(&[("path", text("/é"))]),
        good(&[("path", text(&"/".repeat(MAX_PATH_BYTES + 1)))]),
        good(&[("accept", AMQPValue::LongInt(1))]),
        good(&[("Accept", text("a\nb"))]),
        good(&[("warren-x", text(&long))]),
        good(&[("warren-x", list(&many))]),
        good(&[("warren-x", AMQPValue::FieldArray(FieldArray::from(vec![list(&[])])))]),
        good(&[("warren-a b", text("x"))]),
        good(&[]).with_content_type("a\0".into()),
        good(&[]).with_content_encoding("gzip".into()),
    ];
    let said: Vec<String> = all
        .iter()
        .map(|properties| {
            let status = read_request(properties, Bytes::new()).unwrap_err();
            assert_eq!(status.reason, Reason::BadRequest);
            status.message
        })
        .collect();
    expect![[r#"
        header method: Required value: a request has the headers method and path
        header path: Required value: a request has the headers method and path
        header method: Required value: a request has the headers method and path
        header method: Invalid value: must be a text in UTF-8
        header method: Invalid value: must be one of GET, POST, PUT, PATCH, DELETE
        header method: Invalid value: must be one of GET, POST, PUT, PATCH, DELETE
        header path: Invalid value: must be a text in UTF-8
        header path: Invalid value: must begin with / and have at most 16 KiB of ASCII, escaped as in a URL
        header path: Invalid value: must begin with / and have at most 16 KiB of ASCII, escaped as in a URL
        header path: Invalid value: must begin with / and have at most 16 KiB of ASCII, escaped as in a URL
        header accept: Invalid value: must be a text in UTF-8, or a list of texts
        header accept: Invalid value: must have at most 8 KiB and no control characters
        header warren-x: Invalid value: must have at most 8 KiB and no control characters
        header warren-x: Invalid value: at most 64 headers are read
        header warren-x: Invalid value: must be a text in UTF-8, or a list of texts
        header warren-a b: Invalid value: is no header's name
        content_type: Invalid value: must be printable
        content_encoding: Invalid value: bodies are sent as they are"#]]
    .assert_eq(&said.join("\n"));
    let large = Bytes::from(vec![0; MAX_BODY_BYTES + 1]);
    let status = read_request(&good(&[]), large).unwrap_err();
    assert_eq!(status.reason, Reason::RequestEntityTooLarge);
    // What other programs add is theirs.
    let other = good(&[("x-death", AMQPValue::Void), ("authorization", text("Bearer x"))]);
    assert_eq!(read_request(&other, Bytes::new()).unwrap().headers, []);
}

#[test]
fn patience_is_bounded() {
    let given = |text: &str| patience(&BasicProperties::default().with_expiration(text.into()));
    assert_eq!(patience(&BasicProperties::default()), PATIENCE);
    assert_eq!(given("1500"), Duration::from_millis(1500));
    assert_eq!(given("99999999999"), MAX_PATIENCE);
    assert_eq!(given("soon"), PATIENCE);
}

fn any_value() -> impl Strategy<Value = AMQPValue> {
    prop_oneof![
        any::<bool>().prop_map(AMQPValue::Boolean),
        any::<i64>().prop_map(AMQPValue::LongLongInt),
        any::<i32>().prop_map(AMQPValue::LongInt),
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(|b| AMQPValue::LongString(b.into())),
        "[ -~]{0,40}".prop_map(|t| text(&t)),
        proptest::collection::vec("[ -~]{0,9}", 0..4)
            .prop_map(|t| list(&t.iter().map(String::as_str).collect::<Vec<_>>())),
        Just(AMQPValue::Void),
    ]
}

proptest! {
    /// Whatever is in a message, it is a request that can be one of HTTP, or a Status.
    #[test]
    fn any_message_is_read(
        values in proptest::collection::vec((
            prop_oneof![
                Just("method".to_owned()), Just("path".to_owned()), Just("code".to_owned()),
                Just("accept".to_owned()), "[a-zA-Z-]{1,12}", "warren-.{0,4}",
            ],
            prop_oneof![any_value(), Just(text("GET")), Just(text("/api/v1/pods"))],
        ), 0..9),
        body in proptest::collection::vec(any::<u8>(), 0..9),
    ) {
        let mut table = FieldTable::default();
        for (name, value) in values {
            table.insert(name.into(), value);
        }
        let properties = BasicProperties::default().with_headers(table);
        let _ = read_answer(&properties, body.clone().into());
        if let Ok(request) = read_request(&properties, body.into()) {
            prop_assert!(METHODS.contains(&&*request.method) && request.path.starts_with('/'));
            for (name, value) in &request.headers {
                prop_assert!(passes(name) && is_printable(value));
            }
        }
    }
}
