use warren_process::SystemClock;

use super::*;
use crate::runtime::contract::{Subject, run};

#[tokio::test]
async fn the_contract() {
    let simulation = Simulation::new(Arc::new(SystemClock), &Tasks::new());
    let subject = Subject {
        runtime: simulation.node("n1"),
        again: simulation.node("n1"),
        other_node: simulation.node("n2"),
        image: "busybox:1".into(),
        tag: "simulated".into(),
    };
    run(&subject).await;
}
