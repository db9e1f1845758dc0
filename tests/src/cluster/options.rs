//! What a cluster under test is made of.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    Simulated,
    Docker,
}

#[derive(Clone, Debug)]
pub struct Options {
    pub nodes: usize,
    pub runtime: Runtime,
    /// `amqp://…` of the server's account; the embedded fabric where there is none.
    pub broker: Option<String>,
    /// Each role in a process of its own, so that each can be killed alone.
    pub split: bool,
    /// More arguments for `warren up` or `warren apiserver`.
    pub arguments: Vec<String>,
    /// More arguments for `warren controllers`, where it is a process of its own.
    pub controllers: Vec<String>,
    /// More arguments for `warren agent`, where it is a process of its own.
    pub agents: Vec<String>,
    /// Agents and controllers have a folder of their own with nothing in it, and the broker's address with their
    /// account and password.
    pub amqp_only: bool,
    /// The daemon's address, where it is another than everybody's.
    pub docker_host: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            nodes: 1,
            runtime: Runtime::Simulated,
            broker: None,
            split: false,
            arguments: vec![],
            controllers: vec![],
            agents: vec![],
            amqp_only: false,
            docker_host: None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// `warren up`: all in one.
    Up,
    Apiserver,
    Controllers,
    /// Another `warren controllers`, which a test starts by itself.
    Standby,
    Agent(String),
}

impl Role {
    pub fn name(&self) -> String {
        match self {
            Role::Up => "up".into(),
            Role::Apiserver => "apiserver".into(),
            Role::Controllers => "controllers".into(),
            Role::Standby => "standby".into(),
            Role::Agent(node) => format!("agent-{node}"),
        }
    }
}

/// How a role's process reaches the others, where a test stands between them. Ports are of the loopback.
#[derive(Clone, Debug, Default)]
pub struct Route {
    pub server: Option<u16>,
    pub broker: Option<u16>,
    /// Instead of [`Options::runtime`].
    pub runtime: Option<Runtime>,
    /// This one has nothing but a broker, in a cluster where others have more: as [`Options::amqp_only`].
    pub amqp_only: bool,
}
