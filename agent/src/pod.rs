//! Pods: what to do about them ([`decide`]), what to say about them ([`status`]), and the shell that does it
//! ([`manager`]).

pub mod decide;
pub mod env;
pub mod ephemeral;
pub(crate) mod execute;
pub mod index;
pub(crate) mod manager;
pub mod memory;
pub mod probe;
pub mod spec;
pub mod status;
