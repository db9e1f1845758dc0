//! Pods through a real Docker daemon, driven by the real kubectl. Most tests share one cluster, each in a namespace of
//! its own.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the failure")]

mod docker {
    pub mod containers;
    pub mod deaths;
    pub mod debug;
    pub mod endings;
    pub mod environment;
    pub mod forward;
    pub mod kubectl;
    pub mod neighbours;
    pub mod net;
    pub mod probes;
    pub mod proxy;
    pub mod services;
    pub mod streams;
    pub mod volumes;
}
