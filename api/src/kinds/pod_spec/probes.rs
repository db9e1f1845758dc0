//! Probes and lifecycle hooks of a container.

use serde_json::Value;

use crate::ErrorList;
use crate::tree::{self, Path, Tree};
use crate::validation::{each, names, non_negative};

pub(super) fn all(container: &Tree, path: &Path<'_>, errors: &mut ErrorList) {
    if let Some(lifecycle) = tree::map(container, "lifecycle") {
        let path = path.field("lifecycle");
        for field in ["postStart", "preStop"] {
            if let Some(hook) = tree::map(lifecycle, field) {
                handler(
                    hook,
                    &["exec", "httpGet", "tcpSocket", "sleep"],
                    &path.field(field),
                    errors,
                );
            }
        }
    }
    for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(probe) = tree::map(container, field) else { continue };
        let path = path.field(field);
        handler(probe, &["exec", "httpGet", "tcpSocket", "grpc"], &path, errors);
        for number in [
            "initialDelaySeconds",
            "timeoutSeconds",
            "periodSeconds",
            "successThreshold",
            "failureThreshold",
        ] {
            non_negative(probe, number, &path, errors);
        }
        let grace = tree::int(probe, "terminationGracePeriodSeconds");
        if field == "readinessProbe" {
            if let Some(grace) = grace {
                let message = "must not be set for readinessProbes";
                errors.invalid(path.field("terminationGracePeriodSeconds"), grace, message);
            }
            continue;
        }
        if let Some(grace) = grace.filter(|grace| *grace <= 0) {
            let message = "must be greater than 0";
            errors.invalid(path.field("terminationGracePeriodSeconds"), grace, message);
        }
        let threshold = tree::int(probe, "successThreshold").unwrap_or(1);
        if threshold != 1 {
            errors.invalid(path.field("successThreshold"), threshold, "must be 1");
        }
    }
}

/// Exactly one of the ways to ask.
fn handler(handler: &Tree, ways: &[&str], path: &Path<'_>, errors: &mut ErrorList) {
    let mut count = 0;
    for way in ways {
        let Some(action) = tree::map(handler, way) else { continue };
        let path = path.field(way);
        count += 1;
        if count > 1 {
            errors.forbidden(path, "may not specify more than 1 handler type");
            continue;
        }
        match *way {
            "exec" if tree::list(action, "command").is_empty() => {
                errors.required(path.field("command"), "");
            }
            "httpGet" => http_get(action, &path, errors),
            "tcpSocket" => port(action.get("port"), &path.field("port"), errors),
            "grpc" => {
                let number = tree::int(action, "port").unwrap_or_default();
                if let Some(message) = names::port_number(number) {
                    errors.invalid(path.field("port"), number, &message);
                }
            }
            "sleep" => non_negative(action, "seconds", &path, errors),
            _ => {}
        }
    }
    if count == 0 {
        errors.required(path, "must specify a handler type");
    }
}

fn http_get(action: &Tree, path: &Path<'_>, errors: &mut ErrorList) {
    if tree::text(action, "path").is_empty() {
        errors.required(path.field("path"), "");
    }
    port(action.get("port"), &path.field("port"), errors);
    let scheme = tree::text(action, "scheme");
    if !matches!(scheme, "HTTP" | "HTTPS") {
        errors.not_supported(path.field("scheme"), scheme, &["HTTP", "HTTPS"]);
    }
    for (_, header) in tree::maps(action, "httpHeaders") {
        let name = tree::text(header, "name");
        let is_token =
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !is_token {
            let message = "a valid HTTP header must consist of alphanumeric characters or '-' \
                           (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";
            errors.invalid(path.field("httpHeaders"), name, message);
        }
    }
}

/// A number, or the name of a port.
pub(crate) fn port(port: Option<&Value>, path: &Path<'_>, errors: &mut ErrorList) {
    match port {
        Some(Value::String(name)) => each(names::port_name(name), errors, path, name),
        other => {
            let number = other.and_then(Value::as_i64).unwrap_or_default();
            if let Some(message) = names::port_number(number) {
                errors.invalid(path, number, &message);
            }
        }
    }
}
