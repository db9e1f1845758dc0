//! Whose request is done next. Pure: what comes goes in, what may begin comes out.
//!
//! There is one queue for everybody, so what it brings is taken off it at once and waits here, in a line for each account;
//! the accounts take turns. Who asks for more than its share waits behind itself, and then is refused.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Requests that are being done, and of one account.
    pub(crate) doing: usize,
    pub(crate) doing_of_one: usize,
    /// Requests of one account that are being done or wait. Policy: beyond it, 429.
    pub(crate) of_one: usize,
    /// Bytes of bodies that are being done or wait, and of one account; whoever has none may have one of any size.
    /// Policy: as above.
    pub(crate) bytes: usize,
    pub(crate) bytes_of_one: usize,
}

/// One account has as many as a client of ours asks for at a time, and no larger share of the processors; five that flood
/// with what takes its time leave room for others. A body has at most 3 MiB.
pub(crate) const LIMITS: Limits =
    Limits { doing: 256, doing_of_one: 48, of_one: 100, bytes: 128 << 20, bytes_of_one: 24 << 20 };

/// `T` is a request.
pub(crate) struct Turns<T> {
    limits: Limits,
    accounts: HashMap<Arc<str>, Account<T>>,
    /// Those who have something that may begin; whose turn it is stands first.
    line: VecDeque<Arc<str>>,
    doing: usize,
    waiting: usize,
    bytes: usize,
}

struct Account<T> {
    waiting: VecDeque<(usize, T)>,
    doing: usize,
    bytes: usize,
    in_line: bool,
}

/// That one of an account's requests is being done; given back with [`Turns::done`].
#[derive(Debug)]
pub(crate) struct Turn {
    account: Arc<str>,
    bytes: usize,
}

impl<T> Turns<T> {
    pub(crate) fn new(limits: Limits) -> Self {
        let (accounts, line) = (HashMap::new(), VecDeque::new());
        Self { limits, accounts, line, doing: 0, waiting: 0, bytes: 0 }
    }

    /// Puts a request into its account's line, or gives it back: the account has too many.
    pub(crate) fn arrive(&mut self, account: &str, bytes: usize, request: T) -> Result<(), T> {
        let limits = self.limits;
        let (has, has_bytes) = match self.accounts.get(account) {
            Some(account) => (account.waiting.len() + account.doing, account.bytes),
            None => (0, 0),
        };
        let too_large = has > 0 && has_bytes + bytes > limits.bytes_of_one
            || self.bytes > 0 && self.bytes + bytes > limits.bytes;
        if has >= limits.of_one || too_large {
            return Err(request);
        }
        let name: Arc<str> = match self.accounts.get_key_value(account) {
            Some((name, _)) => Arc::clone(name),
            None => account.into(),
        };
        let account = self.accounts.entry(Arc::clone(&name)).or_default();
        account.waiting.push_back((bytes, request));
        account.bytes += bytes;
        (self.waiting, self.bytes) = (self.waiting + 1, self.bytes + bytes);
        self.line_up(name);
        Ok(())
    }

    /// What may begin now.
    pub(crate) fn start(&mut self) -> Option<(Turn, T)> {
        if self.doing >= self.limits.doing {
            return None;
        }
        let name = self.line.pop_front()?;
        let account = self.accounts.get_mut(&name)?;
        account.in_line = false;
        let (bytes, request) = account.waiting.pop_front()?;
        account.doing += 1;
        (self.doing, self.waiting) = (self.doing + 1, self.waiting - 1);
        self.line_up(Arc::clone(&name));
        Some((Turn { account: name, bytes }, request))
    }

    pub(crate) fn done(&mut self, turn: Turn) {
        let Turn { account: name, bytes } = turn;
        let Some(account) = self.accounts.get_mut(&name) else { return };
        (account.doing, account.bytes) = (account.doing - 1, account.bytes - bytes);
        (self.doing, self.bytes) = (self.doing - 1, self.bytes - bytes);
        self.line_up(name);
    }

    /// What has not begun, as if it had never come.
    pub(crate) fn forget_waiting(&mut self) -> Vec<T> {
        let mut forgotten = Vec::with_capacity(self.waiting);
        for account in self.accounts.values_mut() {
            account.in_line = false;
            for (bytes, request) in account.waiting.drain(..) {
                account.bytes -= bytes;
                self.bytes -= bytes;
                forgotten.push(request);
            }
        }
        self.accounts.retain(|_, account| account.doing > 0);
        self.line.clear();
        self.waiting = 0;
        forgotten
    }

    pub(crate) fn doing(&self) -> usize {
        self.doing
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// To the end of the line where it has something that may begin; forgotten where it has nothing.
    fn line_up(&mut self, name: Arc<str>) {
        let Some(account) = self.accounts.get_mut(&name) else { return };
        if account.waiting.is_empty() {
            if account.doing == 0 {
                self.accounts.remove(&name);
            }
        } else if !account.in_line && account.doing < self.limits.doing_of_one {
            account.in_line = true;
            self.line.push_back(name);
        }
    }
}

impl<T> Default for Account<T> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), doing: 0, bytes: 0, in_line: false }
    }
}

#[cfg(test)]
mod tests;
