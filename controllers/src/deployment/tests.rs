use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::world::World;

fn deployment(replicas: i32, strategy: Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "strategy": strategy, "progressDeadlineSeconds": 600, "revisionHistoryLimit": 2,
            "template": template("one")},
    })
}

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": image}]}})
}

fn rolling(surge: Value, unavailable: Value) -> Value {
    json!({"type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
}

fn sets(world: &World) -> Vec<(i64, i32, i32)> {
    let mut sets: Vec<_> = world
        .list::<ReplicaSet>()
        .iter()
        .map(|rs| (Set::new(rs).revision(), Set::new(rs).before(), Set::new(rs).available()))
        .collect();
    sets.sort_unstable();
    sets
}

fn reason(world: &World, kind: &str) -> String {
    let deployment: Deployment = world.get("web");
    let conditions = deployment.status.unwrap().conditions.unwrap();
    let of = conditions.into_iter().find(|condition| condition.type_ == kind);
    of.map(|c| format!("{} {}", c.status, c.reason.unwrap())).unwrap_or_default()
}

fn set_image(world: &mut World, image: &str) {
    world.edit("deployments", "web", |d| d["spec"]["template"] = template(image));
}

#[test]
fn a_deployment_comes_up_and_rolls_to_another_template() {
    let mut world = World::new();
    world.put("deployments", deployment(3, rolling(json!("25%"), json!("25%"))));
    world.settle();
    assert_eq!(sets(&world), [(1, 3, 3)]);
    assert_eq!(reason(&world, "Progressing"), "True NewReplicaSetAvailable");
    assert_eq!(reason(&world, "Available"), "True MinimumReplicasAvailable");

    set_image(&mut world, "two");
    world.settle();
    assert_eq!(sets(&world), [(1, 0, 0), (2, 3, 3)]);
    let web: Deployment = world.get("web");
    assert_eq!(web.metadata.annotations.unwrap()[REVISION], "2");

    // Undo: kubectl writes the old template again, and the old ReplicaSet is the newest revision.
    set_image(&mut world, "one");
    world.settle();
    assert_eq!(sets(&world), [(2, 0, 0), (3, 3, 3)]);
    let first = world.list::<ReplicaSet>();
    let first = first.iter().find(|rs| Set::new(rs).revision() == 3).unwrap();
    assert_eq!(first.metadata.annotations.as_ref().unwrap()[REVISION_HISTORY], "1");

    for image in ["three", "four", "five"] {
        set_image(&mut world, image);
        world.settle();
    }
    assert_eq!(sets(&world), [(4, 0, 0), (5, 0, 0), (6, 3, 3)], "history is cut to two");
}

#[test]
fn recreate_stops_all_before_it_starts_any() {
    let mut world = World::new();
    world.put("deployments", deployment(3, json!({"type": "Recreate"})));
    world.settle();
    set_image(&mut world, "two");
    for _ in 0..100 {
        world.turn();
        let images: std::collections::BTreeSet<_> = world
            .list::<Pod>()
            .iter()
            .map(|pod| pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap())
            .collect();
        assert!(images.len() < 2, "both run: {images:?}");
    }
    assert_eq!(sets(&world), [(1, 0, 0), (2, 3, 3)]);
}

#[test]
fn a_rollout_that_cannot_progress_says_so_and_keeps_the_old_pods() {
    let mut world = World::new();
    world.put("deployments", deployment(4, rolling(json!(1), json!(1))));
    world.settle();
    world.broken = |pod| pod.spec.as_ref().unwrap().containers[0].image.as_deref() == Some("bad");
    set_image(&mut world, "bad");
    world.settle();
    assert_eq!(sets(&world), [(1, 3, 3), (2, 2, 0)]);
    let web: Deployment = world.get("web");
    let again = world.plan_deployment(&web).again_after.unwrap();
    world.now += jiff::SignedDuration::try_from(again).unwrap();
    world.settle();
    assert_eq!(reason(&world, "Progressing"), "False ProgressDeadlineExceeded");
    assert_eq!(reason(&world, "Available"), "True MinimumReplicasAvailable");
}

#[test]
fn a_paused_deployment_scales_and_does_not_roll() {
    let mut world = World::new();
    world.put("deployments", deployment(2, rolling(json!(1), json!(0))));
    world.settle();
    world.edit("deployments", "web", |d| d["spec"]["paused"] = json!(true));
    set_image(&mut world, "two");
    world.edit("deployments", "web", |d| d["spec"]["replicas"] = json!(5));
    world.settle();
    assert_eq!(sets(&world), [(1, 5, 5)]);
    assert_eq!(reason(&world, "Progressing"), "Unknown DeploymentPaused");
    world.edit("deployments", "web", |d| d["spec"]["paused"] = json!(false));
    world.settle();
    assert_eq!(sets(&world), [(1, 0, 0), (2, 5, 5)]);
}

#[test]
fn scaled_amid_a_rollout_each_set_gets_its_share() {
    let mut world = World::new();
    world.put("deployments", deployment(10, rolling(json!(3), json!(2))));
    world.settle();
    world.broken = |pod| pod.spec.as_ref().unwrap().containers[0].image.as_deref() == Some("bad");
    set_image(&mut world, "bad");
    world.settle();
    assert_eq!(sets(&world), [(1, 8, 8), (2, 5, 0)]);
    world.edit("deployments", "web", |d| d["spec"]["replicas"] = json!(15));
    world.settle();
    // 18 in all, by 8:5 of 13.
    assert_eq!(sets(&world), [(1, 11, 11), (2, 7, 0)]);
}

#[test]
fn percentages_round_surge_up_and_unavailable_down() {
    let limits = |replicas, surge, unavailable| {
        let web = deployment(replicas, rolling(surge, unavailable));
        let web: Deployment = serde_json::from_value(web).unwrap();
        let limits = Limits::of(web.spec.as_ref().unwrap());
        (limits.surge, limits.unavailable)
    };
    assert_eq!(limits(10, json!("25%"), json!("25%")), (3, 2));
    assert_eq!(limits(1, json!("25%"), json!("25%")), (1, 0));
    assert_eq!(limits(3, json!(0), json!("10%")), (0, 1));
    assert_eq!(limits(3, json!("nonsense"), json!(9)), (0, 3));
}

#[test]
fn a_taken_name_is_a_collision_and_gets_another() {
    let mut world = World::new();
    world.put("deployments", deployment(1, rolling(json!(1), json!(0))));
    world.settle();
    let first = world.list::<ReplicaSet>()[0].metadata.name.clone().unwrap();
    let mut other = World::new();
    other.put("deployments", deployment(1, rolling(json!(1), json!(0))));
    other.put(
        "replicasets",
        json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": first},
            "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}}}}),
    );
    other.settle();
    let web: Deployment = other.get("web");
    assert_eq!(web.status.unwrap().collision_count, Some(1));
    assert_eq!(other.list::<ReplicaSet>().len(), 2);
}

fn available(world: &World) -> i32 {
    let pods = world.list::<Pod>();
    let serving = pods.iter().filter(|pod| pods::is_active(pod) && pods::is_ready(pod)).count();
    i32::try_from(serving).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Whatever the numbers, and however templates change midway, the bounds hold and it ends where it should.
    #[test]
    fn rolling_never_leaves_its_bounds_and_arrives(
        replicas in 0..8_i32,
        surge in 0..4_i32,
        unavailable in 0..4_i32,
        midway in 0..12_usize,
        order in proptest::collection::vec(0..3_u8, 0..60),
    ) {
        let mut world = World::new();
        world.put("deployments", deployment(replicas, rolling(json!(surge), json!(unavailable))));
        world.settle();
        set_image(&mut world, "two");
        let web: Deployment = world.get("web");
        let limits = Limits::of(web.spec.as_ref().unwrap());
        // Parts act in any order, so that each sees the others late.
        for (at, part) in order.into_iter().enumerate() {
            if at == midway {
                set_image(&mut world, "three");
            }
            match part {
                0 => {
                    let web: Deployment = world.get("web");
                    let plan = world.plan_deployment(&web);
                    world.carry_out(&plan);
                }
                1 => for rs in world.list::<ReplicaSet>() {
                    let plan = world.plan_replica_set(&rs);
                    world.carry_out(&plan);
                },
                _ => world.kubelet(),
            }
            let active = world.list::<Pod>().iter().filter(|pod| pods::is_active(pod)).count();
            prop_assert!(i32::try_from(active).unwrap() <= limits.most());
            prop_assert!(available(&world) >= limits.least_available());
        }
        world.settle();
        let sets = sets(&world);
        prop_assert!(sets.iter().rev().skip(1).all(|(_, replicas, _)| *replicas == 0), "{:?}", sets);
        prop_assert_eq!(sets.last().map(|s| (s.1, s.2)), Some((replicas, replicas)));
    }
}
