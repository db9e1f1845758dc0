//! The node: it runs the pods that are bound to it and says how they are.
//!
//! What is wanted comes from the node's queue and from the manifests folder ([`desired`], [`manifests`]) and is kept on
//! disk, so that a cold start needs neither server nor broker. One task owns the pods ([`pod::manager`]); what to do
//! about each is a pure function ([`pod::decide`]). Killing the agent never stops a container.

mod agent;
#[doc(hidden)]
pub mod agreement;
pub mod api;
pub(crate) mod autonomy;
pub(crate) mod claim;
mod commands;
pub mod config;
pub(crate) mod context;
#[doc(hidden)]
pub mod desired;
pub mod events;
pub(crate) mod feed;
mod heads;
mod keep;
pub mod manifests;
pub(crate) mod mirror;
pub mod network;
pub mod node;
pub mod objects;
pub mod pod;
pub(crate) mod provisional;
pub mod runtime;
pub mod server;
pub(crate) mod status_writer;
#[cfg(test)]
pub(crate) mod testing;
pub mod volume;
mod wish;

pub use agent::{Agent, AgentDeps, StartError};
pub use config::{Capacity, Config};
pub use provisional::Logs;
