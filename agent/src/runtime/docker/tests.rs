use super::*;
use crate::runtime::contract::{Subject, run};

/// The images are built by `images/build.sh pause` and `images/build.sh busybox`.
const PAUSE: &str = "warren/pause:1";
const BUSYBOX: &str = "warren/busybox:1";

#[tokio::test]
async fn the_contract() {
    let tag = uuid::Uuid::new_v4().simple().to_string();
    let cluster = format!("contract-{}", &tag[..8]);
    let tasks = Tasks::new();
    let node =
        |name: &str| DockerRuntime::new(DockerConfig::new(&cluster, name, PAUSE), &tasks).unwrap();
    let runtime = node("n1");
    let present = match runtime.version().await {
        Err(error) => Err(error.to_string()),
        Ok(_) => {
            let mut missing = Ok(());
            for image in [PAUSE, BUSYBOX] {
                if let Err(error) = runtime.ensure_image(image, PullPolicy::Never, &|| ()).await {
                    missing = Err(format!("{error}: run images/build.sh"));
                }
            }
            missing
        }
    };
    if let Err(why) = present {
        assert!(
            std::env::var("WARREN_TEST_DOCKER").is_err(),
            "WARREN_TEST_DOCKER is set, but Docker cannot be used: {why}"
        );
        eprintln!("skipped, Docker cannot be used: {why}");
        return;
    }
    let subject = Subject {
        again: node("n1"),
        other_node: node("n2"),
        image: BUSYBOX.into(),
        tag,
        runtime: runtime.clone(),
    };
    run(&subject).await;
    runtime.docker().unwrap().remove_network(&runtime.network()).await.unwrap();
}
