//! Who leads among processes of a kind: a state machine without I/O and without a clock.
//!
//! A Lease says who leads, and its number of transitions is the term; whoever writes it leads, and the API refuses what
//! leaders of other terms write. So nothing here can make two processes write: it only finds out fast, and without
//! writing anything while all is well, that a leader is gone.
//!
//! All processes consume one queue of which the broker serves a single active consumer. Who stands by sends a ping through
//! it; the leader is the active consumer and answers. Silence, or one's own ping coming back, means that it is gone.
//! A leader that is not the active consumer (the broker is away, or serves one that hangs) renews the Lease instead, and
//! who stands by looks at that.

use std::time::Duration;

/// What the Lease says, and which version of it was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    pub holder: Option<String>,
    /// `spec.leaseTransitions`: grows with each takeover.
    pub term: u64,
    /// Its resourceVersion; empty where there is no such Lease.
    pub version: String,
}

/// What is said through the broker.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Word {
    pub from: String,
    /// Who leads, as far as the sender knows; itself where it leads.
    pub holder: Option<String>,
    pub term: u64,
}

/// How long is waited for what.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Between two pings.
    pub ping: Duration,
    /// A leader that answered before and says nothing for so long is gone.
    pub silence: Duration,
    /// Between two renewals of a leader that is not the active consumer.
    pub renew: Duration,
    /// Between two looks at the Lease of one who hears nothing from the broker.
    pub poll: Duration,
    /// A Lease that was seen to be renewed and is not for so long is nobody's.
    pub expiry: Duration,
    /// One that was never seen to be renewed, while the broker is away: its holder may have no reason to.
    pub unheard: Duration,
}

impl Timing {
    /// Together below the two seconds within which a standby leads.
    pub const BROKER: Self = Self {
        ping: Duration::from_millis(250),
        silence: Duration::from_millis(1000),
        renew: Duration::from_millis(500),
        poll: Duration::from_millis(500),
        expiry: Duration::from_millis(2000),
        unheard: Duration::from_secs(10),
    };

    /// Without a broker: a write every two seconds, as client-go has it.
    pub const CLOCK: Self = Self {
        ping: Duration::from_secs(1),
        silence: Duration::from_secs(6),
        renew: Duration::from_secs(2),
        poll: Duration::from_secs(1),
        expiry: Duration::from_secs(6),
        unheard: Duration::from_secs(15),
    };
}

/// A process that was not run for so long knows nothing of the present.
const STOPPED: Duration = Duration::from_millis(700);
/// Between two attempts at what failed, and between two handings on of the active role.
const RETRY: Duration = Duration::from_millis(250);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Time has passed; expected at least every 100 ms.
    Tick,
    /// The queue is consumed from now on.
    Joined,
    /// It is not any more: the broker is away.
    Parted,
    /// Came through the leader's queue, so this process is its active consumer.
    Ping(Word),
    /// The answer to a ping of this process.
    Pong(Word),
    /// The Lease, as read or as this process has just written it. Ends the operation.
    Lease(Lease),
    /// Somebody else wrote the Lease first.
    Conflict,
    /// The API did not answer; whether it wrote is not known.
    Failed,
    /// The API refused a write of this term.
    Fenced(u64),
    /// The process ends, and its workers have ended.
    Leave,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Through the leader's queue.
    Ping(Word),
    Pong {
        to: String,
        word: Word,
    },
    /// Stop consuming and begin again, behind all others.
    Rejoin,
    /// The operations on the Lease; one at a time, and each is answered by [`Input::Lease`], [`Input::Conflict`] or
    /// [`Input::Failed`].
    Read,
    /// Write this holder and term over the version.
    Take(Lease),
    /// Write the time of renewal over the version.
    Renew(Lease),
    /// Write that nobody holds it.
    Release(Lease),
    Lead(u64),
    StepDown,
    /// After [`Input::Leave`]: nothing is left to do.
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Read,
    Take,
    Renew,
    Release,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Queue {
    Away {
        since: Duration,
    },
    There {
        since: Duration,
        /// Our own ping came back.
        active: bool,
        /// When the holder last answered a ping.
        answered: Option<Duration>,
    },
}

/// The state of one process. Times are since any fixed moment, on a clock that never goes back.
#[derive(Debug)]
pub struct Election {
    me: String,
    timing: Timing,
    jitter: Duration,
    known: Option<Lease>,
    /// The highest term ever seen, so that a Lease that was deleted begins no old one.
    highest: u64,
    leading: Option<u64>,
    operation: Option<Op>,
    /// What is known may be wrong.
    doubt: bool,
    /// The version that is known may be old: another one is no sign that the holder lives now.
    old: bool,
    queue: Queue,
    /// The last sign of life of the holder, or when it became the holder.
    heard: Duration,
    /// When the holder was last seen to renew.
    renewed: Option<Duration>,
    /// The holder is not the active consumer any more, and we are.
    gone: bool,
    leaving: bool,
    stepped: Duration,
    pinged: Option<Duration>,
    operated: Option<Duration>,
    rejoined: Option<Duration>,
}

impl Election {
    /// `me` must be unique among all processes that ever take part; `jitter` keeps them from doing everything at once.
    pub fn new(me: impl Into<String>, timing: Timing, jitter: Duration, now: Duration) -> Self {
        Self {
            me: me.into(),
            timing,
            jitter,
            known: None,
            highest: 0,
            leading: None,
            operation: None,
            doubt: false,
            old: false,
            queue: Queue::Away { since: now },
            heard: now,
            renewed: None,
            gone: false,
            leaving: false,
            stepped: now,
            pinged: None,
            operated: None,
            rejoined: None,
        }
    }

    /// The term in which this process leads.
    pub fn leading(&self) -> Option<u64> {
        self.leading
    }

    /// What the Lease said when it was last looked at.
    pub fn known(&self) -> Option<&Lease> {
        self.known.as_ref()
    }

    pub fn step(&mut self, now: Duration, input: Input) -> Vec<Action> {
        let mut out = Vec::new();
        if now.saturating_sub(self.stepped) >= STOPPED {
            self.heard = now;
            self.gone = false;
            self.doubt = true;
        }
        self.stepped = now;
        match input {
            Input::Tick => {}
            Input::Joined => {
                self.queue = Queue::There { since: now, active: false, answered: None };
                self.pinged = None;
                self.gone = false;
            }
            Input::Parted => {
                self.queue = Queue::Away { since: now };
                self.gone = false;
            }
            Input::Ping(word) => self.ping(now, &word, &mut out),
            Input::Pong(word) => self.pong(now, &word),
            Input::Lease(lease) => self.lease(now, lease, &mut out),
            Input::Conflict => {
                self.operation = None;
                self.doubt = true;
                // A look costs nothing: no pause.
                self.operated = None;
            }
            Input::Failed => {
                self.operation = None;
                self.doubt = true;
                // Nobody else can write either: silence says nothing now, unless it was heard on the broker.
                if !matches!(self.queue, Queue::There { answered: Some(_), .. }) {
                    self.heard = now;
                }
            }
            Input::Fenced(term) => {
                if self.leading == Some(term) {
                    self.step_down(now, &mut out);
                }
                self.doubt = true;
            }
            Input::Leave => {
                self.leaving = true;
                if self.leading.take().is_some() {
                    out.push(Action::StepDown);
                }
            }
        }
        self.proceed(now, &mut out);
        out
    }

    fn ping(&mut self, now: Duration, word: &Word, out: &mut Vec<Action>) {
        let Queue::There { active, answered, .. } = &mut self.queue else { return };
        if word.from == self.me {
            *active = true;
            // Who answered until now consumes no more.
            self.gone |= answered.is_some() && self.leading.is_none();
            return;
        }
        self.doubt |= word.term > self.highest || self.contradicts(word);
        if self.leading.is_some() {
            let to = word.from.clone();
            out.push(Action::Pong { to, word: self.word() });
        } else if word.holder.as_ref() == Some(&word.from) && self.is_of_holder(word) {
            // The leader itself looks for the active consumer: let it be that.
            self.heard = now;
            self.rejoin(now, out);
        }
    }

    fn pong(&mut self, now: Duration, word: &Word) {
        self.doubt |= word.term > self.highest || self.contradicts(word);
        if self.leading.is_none()
            && self.is_of_holder(word)
            && let Queue::There { answered, .. } = &mut self.queue
        {
            *answered = Some(now);
            self.old = true;
            self.heard = now;
            self.gone = false;
        }
    }

    /// Whether somebody says that it leads, and the Lease that we know says otherwise: one of the two is behind, also where
    /// the term is lower, as after a restore.
    fn contradicts(&self, word: &Word) -> bool {
        word.holder.as_ref() == Some(&word.from)
            && word.from != self.me
            && self.known.is_some()
            && !self.is_of_holder(word)
    }

    /// Whether the holder of the Lease that we know says this.
    fn is_of_holder(&self, word: &Word) -> bool {
        let of =
            |lease: &Lease| lease.term == word.term && lease.holder.as_ref() == Some(&word.from);
        word.from != self.me && self.known.as_ref().is_some_and(of)
    }

    fn lease(&mut self, now: Duration, lease: Lease, out: &mut Vec<Action>) {
        self.operation = None;
        self.doubt = false;
        let old = std::mem::take(&mut self.old);
        let before = self.known.replace(lease.clone());
        self.highest = self.highest.max(lease.term);
        let same = |before: &Lease| before.holder == lease.holder && before.term == lease.term;
        if !before.as_ref().is_some_and(same) {
            self.heard = now;
            self.renewed = None;
            self.gone = false;
            if let Queue::There { answered, .. } = &mut self.queue {
                *answered = None;
            }
        } else if !old && before.is_some_and(|before| before.version != lease.version) {
            self.heard = now;
            self.renewed = Some(now);
        }
        if lease.holder.as_ref() != Some(&self.me) {
            self.step_down(now, out);
        } else if self.leading != Some(lease.term) && !self.leaving {
            self.leading = Some(lease.term);
            out.push(Action::Lead(lease.term));
        }
    }

    fn step_down(&mut self, now: Duration, out: &mut Vec<Action>) {
        if self.leading.take().is_some() {
            out.push(Action::StepDown);
            // The new leader shall be the active consumer.
            self.rejoined = None;
            self.rejoin(now, out);
        }
    }

    fn rejoin(&mut self, now: Duration, out: &mut Vec<Action>) {
        let rests = self.rejoined.is_some_and(|at| now.saturating_sub(at) < RETRY);
        if !rests && matches!(self.queue, Queue::There { .. }) {
            self.rejoined = Some(now);
            self.queue = Queue::There { since: now, active: false, answered: None };
            out.push(Action::Rejoin);
        }
    }

    /// What is to be done as things stand.
    fn proceed(&mut self, now: Duration, out: &mut Vec<Action>) {
        let is_active = matches!(self.queue, Queue::There { active: true, .. });
        let due = |last: Option<Duration>, every: Duration| {
            last.is_none_or(|last| now.saturating_sub(last) >= every)
        };
        if matches!(self.queue, Queue::There { .. })
            && !self.leaving
            && !(is_active && self.leading.is_some())
            && due(self.pinged, self.timing.ping)
        {
            self.pinged = Some(now);
            out.push(Action::Ping(self.word()));
        }
        if self.operation.is_some() {
            return;
        }
        if self.leaving {
            let ours = |lease: &&Lease| lease.holder.as_ref() == Some(&self.me);
            match self.known.as_ref().filter(ours).filter(|_| !self.doubt) {
                Some(lease) => {
                    let lease = Lease { holder: None, ..lease.clone() };
                    self.operate(now, Op::Release, out, Action::Release(lease));
                }
                None => out.push(Action::Done),
            }
            return;
        }
        let Some(lease) = self.known.clone().filter(|_| !self.doubt) else {
            if due(self.operated, RETRY) {
                self.operate(now, Op::Read, out, Action::Read);
            }
            return;
        };
        if self.leading.is_some() {
            if !is_active && due(self.operated, self.timing.renew) {
                self.operate(now, Op::Renew, out, Action::Renew(lease));
            }
        } else if self.is_vacant(now, &lease) {
            let term = self.highest.saturating_add(1);
            let lease = Lease { holder: Some(self.me.clone()), term, ..lease };
            self.operate(now, Op::Take, out, Action::Take(lease));
        } else if self.hears_nothing(now) && due(self.operated, self.timing.poll) {
            self.operate(now, Op::Read, out, Action::Read);
        }
    }

    fn operate(&mut self, now: Duration, op: Op, out: &mut Vec<Action>, action: Action) {
        self.operation = Some(op);
        self.operated = Some(now);
        // What became of it must be seen before anything else.
        self.doubt = op != Op::Read;
        out.push(action);
    }

    fn hears_nothing(&self, now: Duration) -> bool {
        match self.queue {
            Queue::There { answered: Some(at), .. } => {
                now.saturating_sub(at) >= self.timing.ping * 2
            }
            _ => true,
        }
    }

    /// Whether the Lease is to be had.
    fn is_vacant(&self, now: Duration, lease: &Lease) -> bool {
        let Timing { silence, expiry, unheard, .. } = self.timing;
        let quiet_since = |other: Duration| now.saturating_sub(self.heard.max(other));
        let enough = match self.queue {
            _ if lease.holder.is_none() => return quiet_since(Duration::ZERO) >= self.jitter,
            _ if self.gone => return true,
            Queue::There { answered: Some(_), .. } => {
                return quiet_since(Duration::ZERO) >= silence + self.jitter;
            }
            // A leader that lives is told by its ping that we are the active consumer, or renews.
            Queue::There { since, active: true, .. } => (since, silence * 3 / 2),
            Queue::There { since, .. } => (since, expiry),
            Queue::Away { since } if self.renewed.is_some_and(|at| at >= since) => (since, expiry),
            Queue::Away { since } => (since, unheard),
        };
        quiet_since(enough.0) >= enough.1 + self.jitter
    }

    fn word(&self) -> Word {
        let holder = match self.leading {
            Some(_) => Some(self.me.clone()),
            None => self.known.as_ref().and_then(|lease| lease.holder.clone()),
        };
        let term = self.leading.or(self.known.as_ref().map(|lease| lease.term)).unwrap_or(0);
        Word { from: self.me.clone(), holder, term }
    }
}

#[cfg(test)]
mod tests;
