use super::*;

fn folder() -> Folder {
    Folder::new(Registry::builtin(), "n1", |ip| ip.is_loopback())
}

fn text(name: &str, image: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\nspec:\n  containers:\n  - name: c\n    image: {image}\n"
    )
}

#[test]
fn files_that_are_none() {
    for (name, is) in [
        ("web.yaml", true),
        ("web.json", true),
        ("web", true),
        (".web.yaml.swp", false),
        ("web.yaml~", false),
        ("web.tmp", false),
        ("#web.yaml#", false),
        (".hidden", false),
    ] {
        assert_eq!(Folder::is_manifest(Path::new(name)), is, "{name}");
    }
}

#[test]
fn a_broken_version_changes_nothing() {
    let mut folder = folder();
    let path = Path::new("/m/web.yaml");
    assert_eq!(folder.put(path, &text("web", "i:1")), Ok(true));
    let first = folder.resolve().pods;
    let pod = &first[&("default".to_owned(), "web-n1".to_owned())];
    assert_eq!(pod.pod().unwrap().spec.unwrap().node_name.as_deref(), Some("n1"));
    let problem = folder.put(path, "apiVersion: v1\nkind: Pod\nspec: [").unwrap_err();
    assert!(problem.line >= 3 && problem.file == path, "{problem:?}");
    assert_eq!(folder.put(path, "apiVersion: v1\nkind: Pod\nspec: ["), Ok(false), "said once");
    assert_eq!(folder.resolve().pods, first);
    assert_eq!(folder.put(path, &text("web", "i:1")), Ok(false), "the same again");
    assert_eq!(folder.put(path, &text("web", "i:2")), Ok(true));
    assert_ne!(folder.resolve().pods, first);
    assert!(folder.remove(path));
    assert!(folder.resolve().pods.is_empty());
}

#[test]
fn who_was_first_stays() {
    let mut folder = folder();
    let (a, b) = (Path::new("/m/b.yaml"), Path::new("/m/a.yaml"));
    folder.put(a, &text("web", "i:1")).unwrap();
    let first = folder.resolve();
    folder.put(b, &text("web", "i:2")).unwrap();
    let both = folder.resolve();
    assert_eq!(both.pods, first.pods);
    let [conflict] = &both.conflicts[..] else { panic!("{both:?}") };
    assert_eq!(conflict.file, b);
    assert!(conflict.reason.contains("/m/b.yaml already"), "{conflict}");
    folder.remove(a);
    assert_ne!(folder.resolve().pods, first.pods, "now it is the other's");
}

#[test]
fn what_is_wrong_is_named() {
    let cases = [
        ("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\n", "only Pods can"),
        ("apiVersion: v1\nkind: Nonsense\n", "no matches for kind \"Nonsense\""),
        (
            "version: v0\nkind: Pod\nspec:\n  name: a\n  ip: 192.0.2.7\n  containers: [{name: c, image: i}]\n",
            "192.0.2.7",
        ),
        ("", "there is no object"),
        ("apiVersion: v1\nkind: Pod\nspec: {containers: [{name: c, image: i}]}\n", "metadata.name"),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: Bad_Name}\nspec: {containers: [{name: c, image: i}]}\n",
            "Bad_Name",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers: [{name: c, image: i}]\n  volumes: \
             [{name: v, secret: {secretName: s}}]\n",
            "may not refer to secret/default/s",
        ),
    ];
    for (text, reason) in cases {
        let problem = folder().put(Path::new("/m/x.yaml"), text).unwrap_err();
        assert!(problem.reason.contains(reason), "{text}: {problem}");
    }
    let v0 = "version: v0\nkind: Pod\nspec:\n  name: dummy pod\n  ip: 0.0.0.0\n  containers: [{name: c, image: i}]\n";
    let mut folder = folder();
    folder.put(Path::new("/m/x.yaml"), v0).unwrap();
    assert!(folder.find("dummy-pod").is_some());
}
