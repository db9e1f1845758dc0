//! What a process writes about itself: lines on stderr.

use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::{EnvFilter, FilterExt, filter_fn};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// The variable that chooses what is logged, in the form of `tracing_subscriber::EnvFilter`:
/// `WARREN_LOG=debug`, `WARREN_LOG=info,warren_broker=trace`.
pub const LOG_ENV: &str = "WARREN_LOG";

/// Without the variable: this project's crates at info, all others at warn.
const DEFAULT_FILTER: &str = "warn,warren=info";

/// What these say of each channel, connection and request that fails comes to us as an error as well, and is told there
/// with what it was for, or is no error at all: a queue or a server that is waited for. Who wants the lines names the
/// target.
const TOLD_ELSEWHERE: &str =
    "lapin::channel=off,lapin::io_loop=off,kube_client::client::builder=off";

/// Crates that write credentials, tokens or bodies of messages below info. No filter lets that through.
const TALKATIVE: &[&str] =
    &["lapin", "amq_protocol", "h2", "hyper", "tungstenite", "bollard", "kube_client", "tower"];

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people; coloured where stderr is a terminal.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("{LOG_ENV} is not a filter such as \"info,warren_broker=debug\"")]
    Filter(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("telemetry was started twice")]
    Twice,
}

/// Starts logging to stderr. Once a process, first thing in `main`.
pub fn init_telemetry(format: LogFormat) -> Result<(), TelemetryError> {
    let text = std::env::var(LOG_ENV).ok().filter(|text| !text.trim().is_empty());
    let filter = env_filter(text.as_deref())?.and(filter_fn(is_harmless));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let layer = match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .try_init()
        .map_err(|_| TelemetryError::Twice)
}

fn env_filter(text: Option<&str>) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::builder()
        .with_default_directive(LevelFilter::WARN.into())
        .parse(format!("{TOLD_ELSEWHERE},{}", text.unwrap_or(DEFAULT_FILTER)))
        .map_err(|error| TelemetryError::Filter(error.into()))
}

fn is_harmless(metadata: &Metadata<'_>) -> bool {
    is_harmless_at(metadata.target(), *metadata.level())
}

fn is_harmless_at(target: &str, level: Level) -> bool {
    let krate = target.split("::").next().unwrap_or(target);
    level <= Level::INFO || !TALKATIVE.iter().any(|talkative| krate.starts_with(talkative))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    #[test]
    fn filters() {
        for good in [None, Some("debug"), Some("info,warren_broker=trace"), Some("off")] {
            assert!(env_filter(good).is_ok(), "{good:?}");
        }
        assert!(env_filter(Some("warren=loud")).is_err());
    }

    #[test]
    fn what_comes_as_an_error_is_told_by_its_user_only() {
        let shown = |text: Option<&str>| {
            let (seen, filter) = (Arc::<Mutex<Vec<String>>>::default(), env_filter(text).unwrap());
            let layer = Targets(Arc::clone(&seen)).with_filter(filter.and(filter_fn(is_harmless)));
            let subscriber = tracing_subscriber::registry().with(layer);
            tracing::subscriber::with_default(subscriber, || {
                tracing::error!(target: "lapin::channel", "Channel closed");
                tracing::error!(target: "kube_client::client::builder", "failed");
                tracing::error!(target: "lapin::heartbeat", "trouble");
                tracing::error!(target: "warren_broker", "trouble");
            });
            seen.lock().join(" ")
        };
        for text in [None, Some("info"), Some("debug,lapin=info")] {
            assert_eq!(shown(text), "lapin::heartbeat warren_broker", "{text:?}");
        }
        let all = "lapin::channel lapin::heartbeat warren_broker";
        assert_eq!(shown(Some("info,lapin::channel=error")), all);
    }

    struct Targets(Arc<Mutex<Vec<String>>>);

    impl<S: tracing::Subscriber> Layer<S> for Targets {
        fn on_event(
            &self,
            event: &tracing::Event<'_>,
            _: tracing_subscriber::layer::Context<'_, S>,
        ) {
            self.0.lock().push(event.metadata().target().to_owned());
        }
    }

    #[test]
    fn what_may_hold_secrets_is_never_written() {
        let table = [
            ("lapin::connection", Level::TRACE, false),
            ("amq_protocol_tcp", Level::DEBUG, false),
            ("h2::codec", Level::DEBUG, false),
            ("lapin", Level::INFO, true),
            ("warren_broker::relay", Level::TRACE, true),
        ];
        for (target, level, wanted) in table {
            assert_eq!(is_harmless_at(target, level), wanted, "{target} {level}");
        }
    }
}
