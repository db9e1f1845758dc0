use warren_api::NodeName;
use warren_process::Tasks;

use super::*;
use crate::connection::{BrokerConfig, Purpose};
use crate::status::StatusCell;

#[tokio::test]
async fn what_a_reader_lists_without_a_connection_is_taken_in() {
    let config = BrokerConfig {
        url: "amqp://a:b@127.0.0.1:1/".parse().unwrap(),
        queues: QueueType::default(),
        name: "test".to_owned(),
    };
    let purpose = Purpose { what: "consume", probe: false, replay: None };
    let link = Link::start(config, purpose, &Tasks::new(), StatusCell::new(), Arc::default());
    let (out, deliveries) = mpsc::channel(1);
    let told = mpsc::unbounded_channel();
    let tell = told.0.clone();
    let source = Source::Node { queue: "node.a".to_owned() };
    let node = Some(NodeName("a".into()));
    let server = "server".to_owned();
    let mut session = Session::new(link, source, node, server, out, told, None, Arc::default());
    assert!(session.reader.as_mut().unwrap().reconnected().is_some());
    // Fewer than the runtime lets a task take at once.
    for at in 1..=100 {
        let listed = Tell::Listed { streams: Vec::new(), at: Revision(at) };
        assert!(tell.send(listed).is_ok());
    }
    drop(deliveries);
    assert_eq!(session.away(std::future::pending::<()>()).await, None);
    assert!(session.told.is_empty());
    assert_eq!(session.reader.as_mut().unwrap().reconnected(), None);
}
