//! `/livez`, `/readyz`, `/healthz`, `/metrics`.

use http::{Response, StatusCode};

use crate::api::Api;
use crate::request::Query;
use crate::response::{self, Body};

pub(crate) fn answer(api: &Api, path: &str, query: &Query) -> Option<Response<Body>> {
    let verbose = query.has("verbose");
    Some(match path {
        "/livez" | "/livez/ping" | "/healthz/ping" | "/readyz/ping" => match verbose {
            true => response::text(StatusCode::OK, "[+]ping ok\nlivez check passed\n"),
            false => response::text(StatusCode::OK, "ok"),
        },
        "/readyz" | "/healthz" => {
            let report = || api.readiness.verbose(path.trim_start_matches('/'));
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
        "/metrics" => response::text(StatusCode::OK, api.metrics.render(api)),
        _ => return None,
    })
}
