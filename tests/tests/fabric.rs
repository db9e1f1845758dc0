//! The fabric against a real RabbitMQ: what section 5 of the design promises, with faults.

mod fabric {
    pub mod accounts;
    pub mod faults;
    pub mod running;
    pub mod world;
}
