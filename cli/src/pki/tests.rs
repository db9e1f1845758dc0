use std::os::unix::fs::PermissionsExt;

use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn ensure(data: &DataDir, now: &str, leaf: &Leaf) -> (Material, Outcome) {
    Pki::open(data, at(now)).unwrap().ensure(leaf).unwrap()
}

#[test]
fn material_is_made_once_and_renewed_when_it_must_be() {
    let dir = tempfile::tempdir().unwrap();
    let data = DataDir::new(dir.path());
    let leaf = Leaf::apiserver(&[]);
    let more = Leaf::apiserver(&["api.example".to_owned(), "192.0.2.7".to_owned()]);
    let key = data.pki().join("apiserver.key");
    let crt = data.pki().join("apiserver.crt");
    /// What is asked for, when, after what happened to the files, and what comes of it.
    type Case<'a> = (&'a str, &'a str, &'a Leaf, &'a dyn Fn(), Outcome);
    let table: [Case<'_>; 8] = [
        ("first", "2026-01-01T00:00:00Z", &leaf, &|| {}, Outcome::Made("there was none")),
        ("again", "2026-01-02T00:00:00Z", &leaf, &|| {}, Outcome::Kept),
        ("11 months later", "2026-11-30T00:00:00Z", &leaf, &|| {}, Outcome::Kept),
        (
            "25 days before the end",
            "2026-12-07T00:00:00Z",
            &leaf,
            &|| {},
            Outcome::Made("it ends within thirty days"),
        ),
        ("more names", "2026-12-08T00:00:00Z", &more, &|| {}, Outcome::Made("its names changed")),
        ("the same names", "2026-12-08T00:00:00Z", &more, &|| {}, Outcome::Kept),
        (
            "a cut file",
            "2026-12-08T00:00:00Z",
            &more,
            &|| std::fs::write(&crt, "-----BEGIN").unwrap(),
            Outcome::Made("the file was damaged"),
        ),
        (
            "another key",
            "2026-12-08T00:00:00Z",
            &more,
            &|| std::fs::write(&key, KeyPair::generate().unwrap().serialize_pem()).unwrap(),
            Outcome::Made("the key did not fit"),
        ),
    ];
    for (name, now, leaf, before, expected) in table {
        before();
        assert_eq!(ensure(&data, now, leaf).1, expected, "{name}");
    }
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&key), mode(&data.pki().join("ca.key"))), (0o600, 0o600));
}

#[test]
fn another_ca_means_other_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let data = DataDir::new(dir.path());
    ensure(&data, "2026-01-01T00:00:00Z", &Leaf::admin());
    std::fs::remove_file(data.pki().join("ca.crt")).unwrap();
    let error = Pki::open(&data, at("2026-01-01T00:00:00Z")).err().unwrap();
    assert!(error.to_string().contains("ca.crt: is missing"), "{error}");
    std::fs::remove_file(data.pki().join("ca.key")).unwrap();
    let (_, outcome) = ensure(&data, "2026-01-01T00:00:00Z", &Leaf::admin());
    assert_eq!(outcome, Outcome::Made("the CA is another"));
}

#[test]
fn subjects_are_the_contracts() {
    let dir = tempfile::tempdir().unwrap();
    let data = DataDir::new(dir.path());
    let now = "2026-01-01T00:00:00Z";
    for (leaf, subject) in [
        (Leaf::admin(), "O=system:masters, CN=admin"),
        (Leaf::controllers(), "O=system:controllers, CN=system:controllers"),
        (Leaf::apiserver_node(), "CN=system:apiserver"),
        (Leaf::node("n1", &[]), "O=system:nodes, CN=system:node:n1"),
    ] {
        let (material, _) = ensure(&data, now, &leaf);
        let der = der_of(&material.certificate_pem).unwrap();
        let (_, certificate) = X509Certificate::from_der(&der).unwrap();
        assert_eq!(certificate.subject().to_string(), subject);
    }
}

#[test]
fn without_the_key_of_the_ca_what_is_there_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let data = DataDir::new(dir.path());
    let now = "2026-01-01T00:00:00Z";
    ensure(&data, now, &Leaf::node("n1", &[]));
    std::fs::remove_file(data.pki().join("ca.key")).unwrap();
    assert_eq!(ensure(&data, now, &Leaf::node("n1", &["192.0.2.1".into()])).1, Outcome::Kept);
    let error = Pki::open(&data, at(now)).unwrap().ensure(&Leaf::admin()).unwrap_err();
    assert!(error.to_string().contains("without"), "{error}");
}

#[test]
fn a_ca_that_has_expired_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let data = DataDir::new(dir.path());
    ensure(&data, "2026-01-01T00:00:00Z", &Leaf::admin());
    let error = Pki::open(&data, at("2037-01-01T00:00:00Z")).err().unwrap();
    assert!(format!("{error:#}").contains("has expired"), "{error:#}");
}

#[test]
fn a_kubeconfig_is_written_when_it_changes() {
    let dir = tempfile::tempdir().unwrap();
    let data = DataDir::new(dir.path());
    let (material, _) = ensure(&data, "2026-01-01T00:00:00Z", &Leaf::admin());
    let path = data.kubeconfig("admin");
    let write = |server| write_kubeconfig(&path, server, "ca", "admin", &material).unwrap();
    assert!(write("https://127.0.0.1:6443"));
    assert!(!write("https://127.0.0.1:6443"));
    assert!(write("https://127.0.0.1:7443"));
    let config = kube::config::Kubeconfig::read_from(&path).unwrap();
    assert_eq!(config.current_context.as_deref(), Some("admin@warren"));
    assert_eq!(
        config.clusters[0].cluster.as_ref().unwrap().server.as_deref(),
        Some("https://127.0.0.1:7443")
    );
}
