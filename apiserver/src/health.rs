//! `/livez`, `/readyz`, `/healthz`, `/metrics`.

use http::{Response, StatusCode};

use crate::api::Api;
use crate::degraded::{self, Facts};
use crate::request::Query;
use crate::response::{self, Body};

/// Names of nodes and processes are for whoever is somebody (`is_known`); probes that are nobody's ask the broker nothing.
pub(crate) async fn answer(
    api: &Api,
    path: &str,
    query: &Query,
    is_known: bool,
) -> Option<Response<Body>> {
    let verbose = query.has("verbose");
    Some(match path {
        "/livez" | "/livez/ping" | "/healthz/ping" | "/readyz/ping" => match verbose {
            true => response::text(StatusCode::OK, "[+]ping ok\nlivez check passed\n"),
            false => response::text(StatusCode::OK, "ok"),
        },
        "/readyz" | "/healthz" => {
            let endpoint = path.trim_start_matches('/');
            let found = match verbose && is_known {
                true => degraded::reports(&Facts::gather(api).await),
                false => Vec::new(),
            };
            let report = || api.readiness.verbose_with(endpoint, &found);
            if api.shutdown.is_draining() {
                let text = "[-]shutdown failed: the server is shutting down\n";
                return Some(response::text(StatusCode::INTERNAL_SERVER_ERROR, text));
            }
            match api.readiness.is_ready() {
                true if verbose => response::text(StatusCode::OK, report()),
                true => response::text(StatusCode::OK, "ok"),
                false => response::text(StatusCode::INTERNAL_SERVER_ERROR, report()),
            }
        }
        "/metrics" => {
            let facts = Facts::gather(api).await;
            response::text(StatusCode::OK, api.metrics.render(api, &facts))
        }
        _ => return None,
    })
}
