//! `/livez`, `/readyz`, `/healthz`, `/metrics`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use http::{Response, StatusCode};
use parking_lot::RwLock;

use crate::api::Api;
use crate::request::Query;
use crate::response::{self, Body};

/// What readiness is made of. Parts of the server set their own check; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Checks(Arc<RwLock<BTreeMap<&'static str, Check>>>);

#[derive(Clone, Debug)]
struct Check {
    /// `Err` says why not.
    state: Result<(), String>,
    /// Without it the server is not ready; others are reported only.
    required: bool,
}

impl Checks {
    /// The server is not ready while a required check is not well.
    pub fn set(&self, name: &'static str, state: Result<(), String>) {
        self.0.write().insert(name, Check { state, required: true });
    }

    /// Reported by `/readyz?verbose`, but the server works without it: the broker, say.
    pub fn report(&self, name: &'static str, state: Result<(), String>) {
        self.0.write().insert(name, Check { state, required: false });
    }

    pub fn is_ready(&self) -> bool {
        self.0.read().values().all(|check| check.state.is_ok() || !check.required)
    }

    /// One line a check, as Kubernetes' verbose form.
    pub fn describe(&self, name: &str) -> String {
        let mut out = String::new();
        for (check, Check { state, required }) in self.0.read().iter() {
            let _ = match (state, required) {
                (Ok(()), _) => writeln!(out, "[+]{check} ok"),
                (Err(why), true) => writeln!(out, "[-]{check} failed: {why}"),
                (Err(why), false) => writeln!(out, "[!]{check} degraded: {why}"),
            };
        }
        let verdict = if self.is_ready() { "passed" } else { "failed" };
        let _ = writeln!(out, "{name} check {verdict}");
        out
    }
}

pub(crate) fn answer(api: &Api, path: &str, query: &Query) -> Option<Response<Body>> {
    let verbose = query.has("verbose");
    Some(match path {
        "/livez" | "/livez/ping" | "/healthz/ping" | "/readyz/ping" => match verbose {
            true => response::text(StatusCode::OK, "[+]ping ok\nlivez check passed\n"),
            false => response::text(StatusCode::OK, "ok"),
        },
        "/readyz" | "/healthz" => {
            let name = path.trim_start_matches('/');
            let draining = api.shutdown.is_draining();
            match api.health.is_ready() && !draining {
                true if verbose => response::text(StatusCode::OK, api.health.describe(name)),
                true => response::text(StatusCode::OK, "ok"),
                false => {
                    let mut text = api.health.describe(name);
                    if draining {
                        text.insert_str(0, "[-]shutdown failed: the server is shutting down\n");
                    }
                    response::text(StatusCode::INTERNAL_SERVER_ERROR, text)
                }
            }
        }
        "/metrics" => response::text(StatusCode::OK, api.metrics.render(api)),
        _ => return None,
    })
}
