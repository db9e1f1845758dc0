//! The node's network. What it needs of the cluster arrives through [`EventSink`]: the node has one queue and one
//! reader of it.

use warren_broker::Event;

pub mod service;

/// Gets the events of the node's queue that are not about pods, ConfigMaps and Secrets: Services, EndpointSlices, the
/// Node itself, policies. Called from the reader of the queue, before the event is acknowledged; it must not block.
pub trait EventSink: Send + Sync {
    fn event(&self, event: &Event);
    /// Events may have been lost: list again. The API answered just now.
    fn relist(&self);
    /// The container runtime answers again. It may have written its own packet filter anew.
    fn runtime_back(&self);
}
