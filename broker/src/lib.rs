//! The event fabric: topology, envelope, relay, subscriber. The only user of `lapin`.
//!
//! [`Fabric`] is what readers see, over RabbitMQ and embedded in one process alike. Everything is level-triggered: an
//! event is a hint that a key changed, and a [`Delivery::Relist`] says that hints may be missing.

pub mod accounts;
pub mod api;
mod connection;
pub mod consume;
mod declare;
mod dedup;
pub mod election;
pub mod envelope;
mod error;
mod event;
mod fabric;
pub mod fallback;
pub mod heads;
mod leader;
mod letter;
mod look;
mod publish;
mod rabbit;
pub mod relay;
mod replace;
pub mod server;
mod session;
mod status;
pub mod topology;

pub use connection::{BrokerConfig, BrokerUrl};
pub use error::BrokerError;
pub use event::{Event, EventType, Present, Stream, about, leaves_hops};
pub use fabric::{Ack, Delivery, Fabric, Outbox, ReplyTo, Subscriber, Subscription};
pub use heads::Heads;
pub use leader::{Heard, LeaderQueue};
pub use look::{Depths, QueueDepth};
pub use rabbit::RabbitFabric;
pub use server::ServerLink;
pub use status::{FabricStatus, Metrics};
pub use topology::QueueType;
