//! What will happen, and who asked for it.

use std::sync::Arc;

use warren_api::{Fence, GroupResource, NodeName, Revision};
use warren_broker::Event;
use warren_broker::election::Word;
use warren_broker::envelope::Message;

use super::broker::Delivery;
use super::faults::{Fault, Restores};
use super::machine::Op;
use super::process::Work;
use super::server::{Answer, Request};
use super::world::List;
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Caller {
    Node(usize),
    Process(usize),
    /// People, who try once.
    Person,
}

#[derive(Clone, Debug)]
pub enum Token {
    Status { uid: Arc<str>, delete: bool },
    Beat { lost: bool },
    Register,
    Ready,
    Step { work: Work, plan: u64, term: u64 },
    Lease { is_read: bool },
    Heads { ask: u64 },
    Forget,
}

pub enum Happens {
    // The relay and the broker.
    Pump,
    RelayConnects,
    Publish {
        generation: u64,
        tag: u64,
        message: Arc<Message>,
    },
    Confirm {
        generation: u64,
        tag: u64,
        acked: bool,
    },
    Retry {
        generation: u64,
    },
    Read {
        run: u64,
        after: Revision,
        limit: usize,
    },
    CursorOnDisk {
        run: u64,
    },
    // Readers.
    Connect(usize),
    Deliver {
        reader: usize,
        generation: u64,
        delivery: Delivery,
    },
    Settle {
        queue: String,
        generation: u64,
        tag: u64,
    },
    Work {
        reader: usize,
        run: u64,
    },
    Worked {
        reader: usize,
        run: u64,
        event: Arc<Event>,
        generation: u64,
        tag: u64,
    },
    List {
        reader: usize,
        run: u64,
        resource: GroupResource,
    },
    Listed {
        reader: usize,
        run: u64,
        list: List,
    },
    /// Informers ask where their streams stand.
    Asks {
        reader: usize,
        run: u64,
        ask: u64,
    },
    Told {
        reader: usize,
        run: u64,
        ask: u64,
        heads: String,
    },
    NodeTold {
        node: usize,
        run: u64,
    },
    LooksAtHeads {
        reader: usize,
        generation: u64,
    },
    Rebinds {
        reader: usize,
        generation: u64,
    },
    /// The server declares a node's queue anew, or all of them.
    LooksAt(NodeName),
    Heals {
        run: u64,
    },
    // Requests.
    Arrives {
        caller: Caller,
        run: u64,
        fence: Option<Fence>,
        request: Request,
        token: Token,
    },
    Answered {
        caller: Caller,
        run: u64,
        request: Request,
        token: Token,
        answer: Answer,
    },
    // Nodes.
    Runtime {
        node: usize,
        boot: u64,
        run: u64,
        epoch: u64,
        uid: Arc<str>,
        op: Op,
    },
    Ends {
        node: usize,
        boot: u64,
        uid: Arc<str>,
        id: Arc<str>,
        code: i32,
    },
    Wake {
        node: usize,
        run: u64,
        uid: Arc<str>,
    },
    Beat {
        node: usize,
        run: u64,
        beat: u64,
    },
    WriteStatus {
        node: usize,
        run: u64,
    },
    Look {
        node: usize,
        run: u64,
    },
    // Controllers.
    Decide {
        process: usize,
        run: u64,
    },
    Again {
        process: usize,
        run: u64,
        work: Work,
    },
    Tick {
        process: usize,
        run: u64,
    },
    Queues {
        process: usize,
        run: u64,
        generation: u64,
    },
    Word {
        to: Option<String>,
        word: Word,
    },
    /// The broker gives up the connections of a process that was stopped.
    Missed {
        process: usize,
        run: u64,
    },
    // People and accidents.
    People,
    Accident,
    Restores(Restores),
    Mended(Fault),
}
