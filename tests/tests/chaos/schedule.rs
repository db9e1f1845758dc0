//! What is done to the cluster, and when: a list that follows from a seed.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt, SeedableRng};
use warren_tests::Role;
use warren_tests::proxy::Mode;

use crate::AMQP_ONLY;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    Kill(Role),
    KillBroker,
    Stop(Role),
    /// For longer than its lease lasts, while other things happen.
    StopLong(Role),
    StopBroker,
    /// A part cannot reach the broker, or the API.
    Cut {
        part: Role,
        from: From,
        how: Mode,
    },
    CutClients(Mode),
    /// The number chooses among those that are there.
    PurgeQueue(u32),
    DeleteQueue(u32),
    DeleteBinding(u32),
    DeleteExchange,
    CloseConnection(u32),
    CloseConnections,
    MemoryAlarm,
    FullDisk,
    /// Not a fault, but what the next restore goes back to.
    Backup,
    Restore,
    /// The same with nobody to tell it to.
    RestoreWithoutBroker,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum From {
    Broker,
    Server,
}

impl Fault {
    /// The report's row.
    pub fn kind(&self) -> String {
        let whose = |role: &Role| match role {
            Role::Agent(_) => "agent".to_owned(),
            other => other.name(),
        };
        match self {
            Self::Kill(role) => format!("kill -9 {}", whose(role)),
            Self::KillBroker => "kill -9 broker".to_owned(),
            Self::Stop(role) => format!("SIGSTOP {}", whose(role)),
            Self::StopLong(role) => format!("SIGSTOP {} past its lease", whose(role)),
            Self::StopBroker => "SIGSTOP broker".to_owned(),
            Self::Cut { part, from, .. } => {
                let from = if *from == From::Broker { "broker" } else { "server" };
                format!("cut {} from {from}", whose(part))
            }
            Self::CutClients(_) => "cut clients from server".to_owned(),
            Self::PurgeQueue(_) => "queue purged".to_owned(),
            Self::DeleteQueue(_) => "queue deleted".to_owned(),
            Self::DeleteBinding(_) => "binding deleted".to_owned(),
            Self::DeleteExchange => "exchange deleted".to_owned(),
            Self::CloseConnection(_) => "connection closed".to_owned(),
            Self::CloseConnections => "all connections closed".to_owned(),
            Self::MemoryAlarm => "memory alarm".to_owned(),
            Self::FullDisk => "disk full".to_owned(),
            Self::Backup => "backup".to_owned(),
            Self::Restore => "restore".to_owned(),
            Self::RestoreWithoutBroker => "restore without the broker".to_owned(),
        }
    }

    /// What cannot be done to two at once: a process has one state, and a restore has the server to itself.
    fn subject(&self) -> String {
        match self {
            Self::Kill(role) | Self::Stop(role) | Self::StopLong(role) => role.name(),
            Self::Cut { part, from, .. } => format!("{from:?} of {}", part.name()),
            Self::CutClients(_) => "clients".to_owned(),
            Self::Backup | Self::Restore | Self::RestoreWithoutBroker => "alone".to_owned(),
            Self::FullDisk => "disk".to_owned(),
            // All need a broker that answers.
            _ => "broker".to_owned(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    pub faults: Vec<Fault>,
    pub hold: Duration,
}

/// Rounds without an end. Every fault comes once before any comes again.
pub struct Schedule {
    random: StdRng,
    agents: Vec<Role>,
    bag: Vec<Fault>,
}

impl Schedule {
    pub fn new(seed: u64, agents: Vec<Role>) -> Self {
        Self { random: StdRng::seed_from_u64(seed), agents, bag: Vec::new() }
    }

    fn draw(&mut self) -> Fault {
        if self.bag.is_empty() {
            self.bag = self.all();
            self.bag.shuffle(&mut self.random);
        }
        self.bag.pop().expect("it was filled")
    }

    /// One of each kind, the rest chosen.
    fn all(&mut self) -> Vec<Fault> {
        let random = &mut self.random;
        let agents = self.agents.clone();
        let agent = |random: &mut StdRng| agents[random.random_range(0..agents.len())].clone();
        let with_server = |random: &mut StdRng| loop {
            let agent = agent(random);
            if agent != Role::Agent(AMQP_ONLY.into()) {
                break agent;
            }
        };
        let how = |random: &mut StdRng| match random.random_bool(0.5) {
            true => Mode::Refuses,
            false => Mode::Silent,
        };
        let cut = |part, from, how| Fault::Cut { part, from, how };
        vec![
            Fault::Kill(Role::Apiserver),
            Fault::Kill(Role::Controllers),
            Fault::Kill(Role::Standby),
            Fault::Kill(agent(random)),
            Fault::Kill(agent(random)),
            Fault::KillBroker,
            Fault::Stop(Role::Apiserver),
            Fault::Stop(Role::Controllers),
            Fault::Stop(agent(random)),
            Fault::StopLong(agent(random)),
            Fault::StopLong(Role::Controllers),
            Fault::StopBroker,
            cut(Role::Apiserver, From::Broker, how(random)),
            cut(Role::Controllers, From::Broker, how(random)),
            cut(Role::Controllers, From::Server, how(random)),
            cut(agent(random), From::Broker, how(random)),
            cut(with_server(random), From::Server, how(random)),
            Fault::CutClients(how(random)),
            Fault::PurgeQueue(random.random()),
            Fault::DeleteQueue(random.random()),
            Fault::DeleteBinding(random.random()),
            Fault::DeleteExchange,
            Fault::CloseConnection(random.random()),
            Fault::CloseConnections,
            Fault::MemoryAlarm,
            Fault::FullDisk,
            Fault::Backup,
            Fault::Restore,
            Fault::RestoreWithoutBroker,
        ]
    }
}

impl Iterator for Schedule {
    type Item = Round;

    fn next(&mut self) -> Option<Round> {
        let first = self.draw();
        let mut faults = vec![first];
        let alone = |fault: &Fault| fault.subject() == "alone";
        if !alone(&faults[0]) && self.random.random_bool(0.5) {
            let second = self.draw();
            if alone(&second) || second.subject() == faults[0].subject() {
                self.bag.push(second);
            } else {
                faults.push(second);
            }
        }
        // Long enough to be noticed; what makes a node be given up (40 s) is a fault of its own.
        let hold = Duration::from_millis(self.random.random_range(300..4_000));
        Some(Round { faults, hold })
    }
}

#[test]
fn a_seed_is_a_schedule() {
    let agents = || vec![Role::Agent("a".into()), Role::Agent("b".into())];
    let rounds = |seed| Schedule::new(seed, agents()).take(60).collect::<Vec<_>>();
    assert_eq!(rounds(1), rounds(1));
    assert_ne!(rounds(1), rounds(2));
    for seed in 0..50 {
        let rounds = rounds(seed);
        let mut kinds: Vec<_> =
            rounds.iter().flat_map(|round| &round.faults).map(Fault::kind).collect();
        kinds.sort();
        kinds.dedup();
        assert_eq!(kinds.len(), 28, "every kind comes within 60 rounds: {kinds:?}");
        for round in rounds {
            let alone = round.faults.iter().any(|fault| fault.subject() == "alone");
            assert!(!alone || round.faults.len() == 1, "{round:?}");
        }
    }
}
