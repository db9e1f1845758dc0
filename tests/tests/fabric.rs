//! The fabric against a real RabbitMQ: what section 5 of the design promises, with faults.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the failure")]

mod fabric {
    pub mod accounts;
    pub mod faults;
    pub mod heads;
    pub mod queues;
    pub mod running;
    pub mod too_large;
    pub mod world;
}
