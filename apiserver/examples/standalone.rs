//! A server by itself, for trying it with kubectl: `cargo run -p warren-apiserver --example standalone -- <folder> [amqp://…]`
//! writes `<folder>/kubeconfig` and serves until it is interrupted.

#[path = "../tests/support/mod.rs"]
mod support;

use std::path::PathBuf;
use std::time::Duration;

use support::{Authority, write_kubeconfig};
use warren_apiserver::{Config, Pem, Server, Tls};
use warren_broker::{BrokerConfig, QueueType};
use warren_process::Tasks;

#[tokio::main]
async fn main() {
    tracing_subscriber::fmt().with_env_filter("info").init();
    let folder = PathBuf::from(std::env::args().nth(1).expect("a folder"));
    std::fs::create_dir_all(&folder).expect("a folder that can be made");
    let authority = Authority::new();
    let (certificate, key) = authority.issue("apiserver", &[]);
    let pem = |text: &str| Pem::Bytes(text.as_bytes().to_vec());
    let tls =
        Tls { client_ca: pem(&authority.ca_pem), certificate: pem(&certificate), key: pem(&key) };
    let listen = "127.0.0.1:0".parse().expect("an address");
    let mut config = Config::new(folder.join("warren.db"), listen, tls);
    config.broker = std::env::args().nth(2).map(|url| BrokerConfig {
        url: url.parse().expect("the broker's address"),
        name: "standalone".to_owned(),
        queues: QueueType::default(),
    });
    let tasks = Tasks::new();
    let server = Server::start(config, &tasks).await.expect("the server starts");
    write_kubeconfig(&folder.join("kubeconfig"), &authority, server.address());
    let _ = tokio::signal::ctrl_c().await;
    tasks.shutdown().trigger();
    let _ = tasks.wait(Duration::from_secs(10)).await;
    server.close().await;
}
