//! How components talk to the API: the kube-rs client over HTTPS or in process, informers fed by the fabric.
