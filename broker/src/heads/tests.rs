use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn show<T: fmt::Display>(read: Result<T, HeadsError>) -> String {
    read.map_or_else(|error| format!("error: {error}"), |value| value.to_string())
}

#[test]
fn what_is_asked() {
    let long = "x".repeat(254);
    let many = (0..=MAX_ASKED).map(|n| format!("r{n}")).collect::<Vec<_>>().join(",");
    for (text, read) in [
        ("node=a", "node=a"),
        (" node=rabbit-1.example.org ; lost ", "node=rabbit-1.example.org; lost"),
        ("pods", "pods"),
        ("pods, deployments.apps,pods", "pods,deployments.apps"),
        ("networkpolicies.networking.k8s.io", "networkpolicies.networking.k8s.io"),
        ("node=", r#"error: "": must be the name of a node"#),
        ("node=A", r#"error: "A": must be the name of a node"#),
        ("node=a b", r#"error: "a b": must be the name of a node"#),
        (
            "node=a; found",
            r#"error: must be node=NAME or the names of resources such as pods,deployments.apps; "node=a; found" is neither"#,
        ),
        (
            "",
            r#"error: must be node=NAME or the names of resources such as pods,deployments.apps; "" is neither"#,
        ),
        (
            "pods,,nodes",
            r#"error: must be node=NAME or the names of resources such as pods,deployments.apps; "" is neither"#,
        ),
        (&many, "error: 129 resources, at most 128"),
        (&"x".repeat(MAX_BYTES + 1), "error: 16385 bytes, at most 16384 are read"),
    ] {
        assert_eq!(show(Asked::parse(text)), read, "{text:?}");
    }
    assert!(Asked::parse(&format!("node={long}")).is_err());
    assert!(Asked::parse(&long).is_err());
}

#[test]
fn what_is_told() {
    for (text, read) in [
        ("epoch=1 published=2", "epoch=1 published=2"),
        (
            "epoch=1  published=20 pods/node~a=3 deployments.apps/*=4 services/all=5 pods/-=6",
            "epoch=1 published=20 pods/node~a=3 deployments.apps/*=4 services/all=5 pods/-=6",
        ),
        ("published=2", "error: epoch=: missing"),
        ("epoch=1", "error: published=: missing"),
        ("epoch=1 published=-2", r#"error: "published=-2": must be name=number"#),
        ("epoch", r#"error: "epoch": must be name=number"#),
        ("epoch=1 published=2 pods=3", r#"error: "pods=3": must be resource/shard=revision"#),
        (
            "epoch=1 published=2 pods/node~=3",
            r#"error: "pods/node~=3": must be resource/shard=revision"#,
        ),
        ("epoch=1 published=2 pods/*=0", r#"error: "pods/*=0": must be above 0"#),
        (&"9".repeat(MAX_BYTES + 1), "error: 16385 bytes, at most 16384 are read"),
    ] {
        assert_eq!(show(Heads::parse(text)), read, "{text:?}");
    }
}

proptest! {
    #[test]
    fn what_is_written_reads_as_the_same(
        epoch in any::<u64>(), published in any::<u64>(),
        streams in vec(("[a-z]{1,9}(\\.[a-z]{1,9}){0,2}", 0..5usize, "[a-z0-9.-]{1,40}", 1..u64::MAX), 0..20),
    ) {
        let streams = streams.into_iter().map(|(of, shard, node, head)| {
            let node = Shard::Node(NodeName(node.as_str().into()));
            let shards = [Shard::Every, Shard::All, Shard::None, Shard::Unscheduled, node];
            let stream = Stream { resource: resource(&of).unwrap(), shard: shards[shard].clone() };
            (stream, Revision(head))
        });
        let heads = Heads { epoch, published: Revision(published), streams: streams.collect() };
        prop_assert_eq!(Heads::parse(&heads.to_string()), Ok(heads));
    }

    #[test]
    fn nothing_panics(text in "\\PC*") {
        let _ = Heads::parse(&text);
        let _ = Asked::parse(&text);
    }
}
