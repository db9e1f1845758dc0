//! The node: pods, runtimes, network, volumes, manifests. The only user of `bollard`.
