//! Spans of time as `kubectl` shows them.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// `5m3s`, `2d`: the two largest units that matter, none below seconds. Rules: `HumanDuration` of
/// k8s.io/apimachinery.
pub fn human(seconds: i64) -> String {
    let pair = |large: i64, unit: char, small: i64, rest: char| match small {
        0 => format!("{large}{unit}"),
        _ => format!("{large}{unit}{small}{rest}"),
    };
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let days = hours / 24;
    match seconds {
        ..=-2 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        _ if minutes < 10 => pair(minutes, 'm', seconds % 60, 's'),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => pair(hours, 'h', minutes % 60, 'm'),
        _ if hours < 48 => format!("{hours}h"),
        _ if days < 8 => pair(days, 'd', hours % 24, 'h'),
        _ if days < 730 => format!("{days}d"),
        _ if days < 2920 => pair(days / 365, 'y', days % 365, 'd'),
        _ => format!("{}y", days / 365),
    }
}

/// How long ago an instant in RFC 3339 was; `<unknown>` where there is none.
pub fn since(instant: &str, now: Timestamp) -> String {
    match instant.parse::<Timestamp>() {
        Ok(then) => human(between(then, now)),
        Err(_) => "<unknown>".to_owned(),
    }
}

/// Whole seconds from one instant to another.
pub(crate) fn between(from: Timestamp, to: Timestamp) -> i64 {
    to.duration_since(from).as_secs()
}

/// An instant as the API writes it: RFC 3339 in UTC, whole seconds.
pub fn rfc3339(instant: Timestamp) -> String {
    instant.to_zoned(TimeZone::UTC).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        const M: i64 = 60;
        const H: i64 = 60 * M;
        const D: i64 = 24 * H;
        for (seconds, expected) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (2 * M, "2m"),
            (5 * M + 3, "5m3s"),
            (10 * M + 3, "10m"),
            (179 * M, "179m"),
            (3 * H, "3h"),
            (7 * H + 59 * M, "7h59m"),
            (8 * H + 59 * M, "8h"),
            (47 * H, "47h"),
            (48 * H, "2d"),
            (2 * D + 5 * H, "2d5h"),
            (8 * D + 5 * H, "8d"),
            (729 * D, "729d"),
            (730 * D, "2y"),
            (800 * D, "2y70d"),
            (3000 * D, "8y"),
        ] {
            assert_eq!(human(seconds), expected, "{seconds}");
        }
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        assert_eq!(since("2026-01-01T23:59:50.123456Z", now), "9s");
        assert_eq!(since("", now), "<unknown>");
        assert_eq!(rfc3339(now), "2026-01-02T00:00:00Z");
    }
}
