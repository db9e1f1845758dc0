//! Where the daemon is. It may come later than the agent, and its socket with it.

use std::sync::OnceLock;

use super::*;

pub(super) struct Daemon {
    /// As in [`DockerConfig::host`].
    host: Option<String>,
    client: OnceLock<Docker>,
}

impl Daemon {
    /// # Errors
    /// The address is no address.
    pub(super) fn new(host: Option<String>) -> Result<Self> {
        let this = Self { host, client: OnceLock::new() };
        match this.connect() {
            Ok(_) | Err(Error::SocketNotFoundError(_)) => Ok(this),
            Err(error) => Err(RuntimeError::Unreachable(error.to_string())),
        }
    }

    /// # Errors
    /// There is no socket yet.
    pub(super) fn client(&self) -> Result<&Docker> {
        self.connect().map_err(|error| match error {
            Error::SocketNotFoundError(path) => {
                RuntimeError::Unreachable(format!("there is no socket {path}: does dockerd run?"))
            }
            error => RuntimeError::Unreachable(error.to_string()),
        })
    }

    fn connect(&self) -> std::result::Result<&Docker, Error> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let client = match &self.host {
            Some(host) => Docker::connect_with_host(host),
            None => Docker::connect_with_defaults(),
        }?;
        let patience = Duration::from_secs(TIMEOUT_SECONDS);
        Ok(self.client.get_or_init(|| client.with_timeout(patience)))
    }
}
