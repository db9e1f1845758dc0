//! The event fabric: topology, envelope, relay, subscriber. The only user of `lapin`.
//!
//! [`Fabric`] is what readers see, over RabbitMQ and embedded in one process alike. Everything is level-triggered: an
//! event is a hint that a key changed, and a [`Delivery::Relist`] says that hints may be missing.

pub mod consume;
pub mod envelope;
mod event;
mod fabric;
pub mod topology;

pub use event::{Event, EventType, Stream};
pub use fabric::{Ack, Delivery, Fabric, Outbox, ReplyTo, Subscriber, Subscription};
