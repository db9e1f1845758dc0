//! HTTP to real pods through the API server.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use warren_tests::cluster::SOON;
use warren_tests::running::Running;
use warren_tests::{Space, until, until_some};

/// 8080 serves files, 9000 answers with what it was asked, 9001 is upgraded and sends back what it gets.
const WEB: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: warren/busybox:1
    ports: [{name: files, containerPort: 8080}]
    command:
    - sh
    - -c
    - |
      mkdir -p /www/sub
      echo '<a href="/index.html">home</a><script>"/kept"</script>' > /www/index.html
      echo 'in the folder' > /www/sub/index.html
      yes 0123456789abcdef | head -n 300000 > /www/large.txt
      cat > /tmp/head <<'END'
      end=$(printf '\r')
      length=0
      all=
      while IFS= read -r line; do
        line=${line%"$end"}
        [ -z "$line" ] && break
        case "$line" in content-length:*) length=${line#*: } ;; esac
        all="$all$line|"
      done
      END
      { cat /tmp/head; cat <<'END'
      printf 'HTTP/1.1 201 Created\r\nX-Own: yes\r\nConnection: close\r\n\r\n%s' "$all"
      head -c "$length"
      END
      } > /tmp/show
      { cat /tmp/head; cat <<'END'
      printf 'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n'
      exec cat
      END
      } > /tmp/upgraded
      httpd -p 8080 -h /www
      nc -ll -p 9000 -e sh /tmp/show &
      exec nc -ll -p 9001 -e sh /tmp/upgraded
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: files}]
"#;

/// One request on a connection of its own.
fn ask(address: &str, request: &str) -> String {
    let mut stream = connect(address);
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

/// A `kubectl proxy` and where it listens.
fn proxy(space: &Space) -> (Running, String) {
    let proxy = space.going_on(&["proxy", "--port=0"]);
    let address = until_some("kubectl proxies", SOON, || {
        let output = proxy.output();
        output
            .lines()
            .find_map(|line| line.strip_prefix("Starting to serve on ").map(str::to_owned))
    });
    (proxy, address)
}

#[test]
fn pods_and_services_are_proxied() {
    let space = Space::on_docker("proxy");
    space.apply(WEB);
    space.ready("web");
    let base = "/api/v1/namespaces/proxy";
    let raw = |path: &str| space.kubectl(&["get", "--raw", &format!("{base}{path}")]);
    until("it listens", SOON, || raw("/pods/web:8080/proxy/index.html").succeeded());
    until("it is behind its Service", SOON, || raw("/services/web:http/proxy/").succeeded());
    let page = |path: &str| {
        format!("<a href=\"{base}{path}/index.html\">home</a><script>\"/kept\"</script>\n")
    };
    assert_eq!(raw("/pods/web:8080/proxy/index.html").ok(), page("/pods/web:8080/proxy"));
    assert_eq!(raw("/pods/http:web:/proxy/").ok(), page("/pods/http:web:/proxy"));
    assert_eq!(raw("/services/web:80/proxy/").ok(), page("/services/web:80/proxy"));
    assert_eq!(raw("/services/web:http/proxy/").ok(), page("/services/web:http/proxy"));
    let large = raw("/services/web:http/proxy/large.txt");
    assert!(large.ok().len() == 300_000 * 17 && large.stdout.ends_with("abcdef\n"));
    assert!(raw("/pods/web:8080/proxy/nothing").err().contains("(NotFound)"));
    let out = raw("/pods/web:8081/proxy/");
    assert!(out.err().contains("error trying to reach service: "), "{}", out.told());
    assert!(out.stderr.contains("connection refused"), "{}", out.told());
    let out = raw("/pods/https:web:8080/proxy/");
    assert!(out.err().contains("error trying to reach service: "), "{}", out.told());

    let (_proxy, address) = proxy(&space);
    let host = format!("Host: {address}\r\nConnection: close\r\n");

    // A folder: kubectl's own redirect, then the server's.
    let answer = ask(&address, &format!("GET {base}/pods/web:8080/proxy HTTP/1.1\r\n{host}\r\n"));
    assert!(answer.starts_with("HTTP/1.1 301 "), "{answer}");
    assert!(answer.contains(&format!("Location: {base}/pods/web:8080/proxy/\r\n")), "{answer}");
    let answer =
        ask(&address, &format!("GET {base}/pods/web:8080/proxy/sub HTTP/1.1\r\n{host}\r\n"));
    assert!(answer.starts_with("HTTP/1.1 302 "), "{answer}");
    assert!(answer.contains(&format!("{base}/pods/web:8080/proxy/sub/")), "{answer}");

    let answer = ask(
        &address,
        &format!(
            "POST {base}/pods/web:9000/proxy/a/b?c=d&e HTTP/1.1\r\n{host}X-Own: 1\r\n\
             Authorization: Bearer secret\r\nContent-Length: 9\r\n\r\nthe body\n"
        ),
    );
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    assert!(answer.contains("POST /a/b?c=d&e HTTP/1.1|"), "{answer}");
    for expected in ["x-own: 1|", "x-forwarded-for: ", "the body\n", "X-Own: yes\r\n"] {
        assert!(answer.contains(expected), "no {expected:?}: {answer}");
    }
    assert!(answer.contains(&format!("x-forwarded-uri: {base}/pods/web:9000/proxy/a/b|")));
    assert!(!answer.to_lowercase().contains("secret"), "{answer}");

    // Whatever form is wanted, and whatever method: that is between the client and the pod.
    let csv = format!("{base}/pods/web:9000/proxy/ HTTP/1.1\r\n{host}Accept: text/csv\r\n\r\n");
    for method in ["OPTIONS", "PATCH", "DELETE", "PUT"] {
        let answer = ask(&address, &format!("{method} {csv}"));
        assert!(answer.contains(&format!("{method} / HTTP/1.1|")), "{answer}");
        assert!(answer.contains("accept: text/csv|"), "{answer}");
    }
    let head = format!("HEAD {base}/pods/web:8080/proxy/large.txt HTTP/1.1\r\n{host}\r\n");
    let answer = ask(&address, &head);
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\n"), "{answer}");
    assert!(answer.contains("Content-Length: 5100000\r\n"), "{answer}");

    // Upgraded, with what is said before the answer.
    let mut stream = connect(&address);
    let request = format!(
        "GET {base}/pods/web:9001/proxy/ HTTP/1.1\r\nHost: {address}\r\n\
         Connection: Upgrade\r\nUpgrade: echo\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    for said in ["one", "two and more"] {
        stream.write_all(said.as_bytes()).unwrap();
        let mut back = vec![0; said.len()];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(back, said.as_bytes());
    }

    space.kubectl(&["delete", "pod", "web", "--wait=false"]).ok();
    until("nobody is behind the Service", SOON, || {
        raw("/services/web:http/proxy/")
            .stderr
            .contains("no endpoints available for service \"web\"")
    });
}

/// Takes all and says nothing, until its client goes.
const MUTE: &str = "
apiVersion: v1
kind: Pod
metadata: {name: mute}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: warren/busybox:1
    command: [sh, -c, 'echo \"exec cat -u > /dev/null\" > /tmp/mute; httpd -p 8080 -h /tmp; exec nc -ll -p 9000 -e sh /tmp/mute']
";

#[test]
fn one_that_never_answers_is_its_clients_matter_alone() {
    let space = Space::on_docker("proxy-mute");
    space.apply(MUTE);
    space.ready("mute");
    let path = "/api/v1/namespaces/proxy-mute/pods/mute";
    let file = || space.kubectl(&["get", "--raw", &format!("{path}:8080/proxy/mute")]);
    until("it listens", SOON, || file().succeeded());
    let (_proxy, address) = proxy(&space);
    let request = |port: u16| {
        format!(
            "GET {path}:{port}/proxy/mute HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
        )
    };
    let waiting = || {
        let out = space.sh("mute", "ps | grep -c '[c]at -u'");
        out.stdout.trim().parse::<usize>().unwrap_or_default()
    };
    let mut asked: Vec<TcpStream> = Vec::new();
    for _ in 0..64 {
        let mut stream = connect(&address);
        stream.write_all(request(9000).as_bytes()).unwrap();
        asked.push(stream);
    }
    until("all wait", SOON, || waiting() == 64);
    let answer = ask(&address, &request(8080));
    assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
    // Others have their turn.
    let node = space.cluster.node_names().remove(0);
    let healthz = format!("/api/v1/nodes/{node}/proxy/healthz");
    assert_eq!(space.kubectl(&["get", "--raw", &healthz]).ok(), "ok");
    drop(asked);
    until("nobody waits, here and there", SOON, || waiting() == 0);
    until("there is room again", SOON, || ask(&address, &request(8080)).contains("200 OK"));
}
