use super::*;

#[test]
fn thresholds() {
    let probe =
        Probe { failure_threshold: Some(2), success_threshold: Some(2), ..Probe::default() };
    let mut counter = Counter::default();
    let (yes, no) = (Answer::Success, Answer::Failure(String::new()));
    let error = Answer::Error(String::new());
    let mut seen = Vec::new();
    for answer in [&yes, &yes, &yes, &no, &yes, &no, &error, &no, &no, &yes, &no, &yes, &yes] {
        seen.push(match counter.count(&probe, answer) {
            Some(Verdict::Success) => 'S',
            Some(Verdict::Failure) => 'F',
            None => '-',
        });
    }
    assert_eq!(seen.iter().collect::<String>(), "-S-----F----S");
}

#[tokio::test]
async fn http_and_tcp_ask_for_real() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let number = listener.local_addr().unwrap().port();
    let answers = async {
        for status in ["200 OK", "503 No", "302 Elsewhere"] {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 512];
            let read = stream.read(&mut buffer).await.unwrap();
            assert!(buffer[..read].starts_with(b"GET /healthz?x=1 HTTP/1.1\r\n"));
            stream.write_all(format!("HTTP/1.1 {status}\r\n\r\n").as_bytes()).await.unwrap();
        }
    };
    let container: Container = serde_json::from_value(serde_json::json!({
        "name": "c", "ports": [{"name": "web", "containerPort": number}]}))
    .unwrap();
    let get = HTTPGetAction {
        path: Some("/healthz?x=1".into()),
        port: IntOrString::String("web".into()),
        ..HTTPGetAction::default()
    };
    let target = Target { container_id: "x".into(), ip: [127, 0, 0, 1].into() };
    let asked = async {
        let mut found = Vec::new();
        for _ in 0..3 {
            found.push(http(&container, &get, &target, Duration::from_secs(5)).await);
        }
        found
    };
    let ((), found) = tokio::join!(answers, asked);
    let failed = Answer::Failure("HTTP probe failed with statuscode: 503".into());
    assert_eq!(found, [Answer::Success, failed, Answer::Success]);
    drop(listener);
    let refused = http(&container, &get, &target, Duration::from_secs(5)).await;
    let why = format!("dial tcp 127.0.0.1:{number}: connect: connection refused");
    let url = format!("http://127.0.0.1:{number}/healthz?x=1");
    assert_eq!(refused, Answer::Failure(format!("Get \"{url}\": {why}")));
    let refused = connect("127.0.0.1", number, Duration::from_secs(5)).await;
    assert_eq!(refused.unwrap_err(), why);
    // Longer than any name, so that nobody is asked.
    let host = "x".repeat(300);
    let unknown = connect(&host, number, Duration::from_secs(60)).await;
    assert_eq!(unknown.unwrap_err(), format!("dial tcp: lookup {host}: no such host"));
}

#[tokio::test]
async fn a_connection_that_breaks_is_told_with_both_its_ends() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let number = listener.local_addr().unwrap().port();
    let answers = async {
        let (stream, far) = listener.accept().await.unwrap();
        // What was sent is there, unread: the end is a reset.
        stream.readable().await.unwrap();
        drop(stream);
        far
    };
    let get = HTTPGetAction { port: IntOrString::Int(number.into()), ..HTTPGetAction::default() };
    let target = Target { container_id: "x".into(), ip: [127, 0, 0, 1].into() };
    let container = Container::default();
    let asked = http(&container, &get, &target, Duration::from_secs(5));
    let (far, found) = tokio::join!(answers, asked);
    let why = format!("read tcp {far}->127.0.0.1:{number}: read: connection reset by peer");
    assert_eq!(found, Answer::Failure(format!("Get \"http://127.0.0.1:{number}/\": {why}")));
}

#[tokio::test]
async fn a_probe_says_one_request_and_nothing_else() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let number = listener.local_addr().unwrap().port();
    let get: HTTPGetAction = serde_json::from_value(serde_json::json!({
        "path": "/a b\r\nSET x 1\r\n", "port": number, "host": "127.0.0.1",
        "httpHeaders": [{"name": "Host", "value": "x\r\nSET y 1"}, {"name": "User-Agent", "value": "me"}],
    }))
    .unwrap();
    let answers = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buffer = [0; 512];
        let read = stream.read(&mut buffer).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        String::from_utf8_lossy(&buffer[..read]).into_owned()
    };
    let target = Target { ip: "127.0.0.1".parse().unwrap(), container_id: "x".into() };
    let container = Container::default();
    let (answer, said) =
        tokio::join!(http(&container, &get, &target, Duration::from_secs(10)), answers);
    assert_eq!(answer, Answer::Success);
    assert_eq!(
        said,
        format!(
            "GET /a%20b%0D%0ASET%20x%201%0D%0A HTTP/1.1\r\nHost: 127.0.0.1:{number}\r\nUser-Agent: me\r\nAccept: */*\r\n\
             Connection: close\r\n\r\n"
        )
    );
}
