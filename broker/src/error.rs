//! What can go wrong between us and the broker.

/// AMQP's reply codes.
pub(crate) const NOT_FOUND: u16 = 404;
pub(crate) const PRECONDITION_FAILED: u16 = 406;

/// The source is never in Display where the variant has one; [`BrokerError::report`] gives both.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BrokerError {
    #[error("broker URL: {0}")]
    Url(String),
    #[error("{operation}: no answer within {seconds} s")]
    Timeout { operation: &'static str, seconds: u64 },
    #[error("{operation} {subject:?}")]
    Rpc { operation: &'static str, subject: String, source: lapin::Error },
    #[error("publish to {exchange:?} with key {key:?}: {reason}")]
    Publish { exchange: String, key: String, reason: String },
    #[error("the broker is out of reach: {0}")]
    Disconnected(String),
    #[error("the queue {0:?} is read by somebody else, and is not replaced until that ends")]
    InUse(String),
    #[error("{0}: the broker's answer goes to a queue of one's own, not to {1:?}")]
    ReservedReply(&'static str, String),
}

impl BrokerError {
    /// The whole chain in one line.
    pub fn report(&self) -> String {
        match std::error::Error::source(self) {
            Some(source) => format!("{self}: {source}"),
            None => self.to_string(),
        }
    }

    pub(crate) fn is_missing(&self) -> bool {
        self.code() == Some(NOT_FOUND)
    }

    /// It is there, but not as was asked for: with other arguments, or not empty.
    pub(crate) fn is_other(&self) -> bool {
        self.code() == Some(PRECONDITION_FAILED)
    }

    fn code(&self) -> Option<u16> {
        let BrokerError::Rpc { source, .. } = self else { return None };
        code(source)
    }
}

/// The AMQP reply code, where the broker gave one.
pub(crate) fn code(error: &lapin::Error) -> Option<u16> {
    match error.kind() {
        lapin::ErrorKind::ProtocolError(error) => Some(error.get_id()),
        _ => None,
    }
}

pub(crate) trait Context<T> {
    /// Names the operation and its subject.
    fn context(self, operation: &'static str, subject: &str) -> Result<T, BrokerError>;
}

impl<T> Context<T> for lapin::Result<T> {
    fn context(self, operation: &'static str, subject: &str) -> Result<T, BrokerError> {
        self.map_err(|source| BrokerError::Rpc { operation, subject: subject.to_owned(), source })
    }
}
