//! Request, object, SQLite, event.
//!
//! A request's path is [`api::respond`], one screen: request info → authentication → flow → authorisation →
//! admission → prepare → commit. The committed batch reaches the cache before answers go out; GET, LIST and watches
//! read the cache only.

mod accept;
mod admission;
mod api;
mod authn;
mod authz;
mod bootstrap;
mod broker;
mod cache;
mod codec;
mod commit;
mod degraded;
mod discovery;
mod events;
mod fabric;
mod fence;
mod flow;
mod fuzzing;
mod heads;
mod health;
mod hops;
mod local;
mod metrics;
mod metrics_api;
mod prepare;
mod read;
mod readers;
mod refs;
mod request;
mod response;
#[doc(hidden)]
pub mod restored;
mod review;
mod selection;
mod serve;
mod server;
#[doc(hidden)]
pub mod simulation;
mod subresource;
mod table;
mod unread;
mod watch;
mod write;

pub use admission::{AddressRange, DefaultTolerations, PortRange};
pub use authn::User;
pub use fuzzing::read_request;
pub use local::LocalService;
pub use response::Body;
pub use server::{Config, NodeClient, Pem, Server, StartError, Tls};
