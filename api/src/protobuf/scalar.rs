//! Strings of the JSON form that are numbers or messages on the wire.

use jiff::Timestamp;

use super::Fault;

const SECOND: i128 = 1_000_000_000;

/// Nanoseconds as Go writes a duration: `1m30s`, `1.5ms`.
pub(super) fn duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    let with_fraction = |unit: u64, name: &str| {
        let width = unit.ilog10() as usize;
        let text = format!("{}.{:0width$}", nanos / unit, nanos % unit);
        format!("{sign}{}{name}", text.trim_end_matches('0').trim_end_matches('.'))
    };
    match nanos {
        0 => return "0s".to_owned(),
        1..1_000 => return format!("{sign}{nanos}ns"),
        1_000..1_000_000 => return with_fraction(1_000, "µs"),
        1_000_000..1_000_000_000 => return with_fraction(1_000_000, "ms"),
        _ => {}
    }
    let (seconds, rest) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let text = format!("{seconds}.{rest:09}");
    let seconds = text.trim_end_matches('0').trim_end_matches('.');
    match (hours, minutes) {
        (0, 0) => format!("{sign}{seconds}s"),
        (0, _) => format!("{sign}{minutes}m{seconds}s"),
        _ => format!("{sign}{hours}h{minutes}m{seconds}s"),
    }
}

/// The nanoseconds of a duration as Go reads one.
pub(super) fn nanos_of_duration(text: &str) -> Result<i64, Fault> {
    let refused = || Fault::new(format!("invalid duration {text:?}"));
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" || text.is_empty() {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(refused());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(refused)?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        rest = tail;
        let unit: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => SECOND,
            "m" => 60 * SECOND,
            "h" => 3600 * SECOND,
            _ => return Err(refused()),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
            return Err(refused());
        }
        let parse = |text: &str| match text {
            "" => Ok(0i128),
            text => text.get(..text.len().min(18)).unwrap_or(text).parse().map_err(|_| refused()),
        };
        let fraction = &fraction[..fraction.len().min(18)];
        if whole.len() > 18 {
            return Err(refused());
        }
        total += parse(whole)? * unit + parse(fraction)? * unit / 10i128.pow(fraction.len() as u32);
        if total > i128::from(i64::MAX) {
            return Err(refused());
        }
    }
    i64::try_from(if negative { -total } else { total }).map_err(|_| refused())
}

/// An instant with `digits` of a fraction, as the JSON form has it.
pub(super) fn instant(seconds: i64, nanos: i64, digits: usize) -> Result<String, Fault> {
    let refused = || Fault::new("the instant is out of range");
    let total = i128::from(seconds) * SECOND + i128::from(nanos);
    let at = Timestamp::from_nanosecond(total).map_err(|_| refused())?;
    // Cut, not rounded.
    let unit = 10i128.pow(9 - digits as u32);
    let cut = total.div_euclid(unit) * unit;
    let at = Timestamp::from_nanosecond(cut).unwrap_or(at);
    Ok(format!("{at:.digits$}"))
}

/// Seconds and nanoseconds since 1970; the latter are never negative.
pub(super) fn parts_of_instant(text: &str) -> Result<(i64, i64), Fault> {
    let at: Timestamp =
        text.parse().map_err(|_| Fault::new(format!("invalid instant {text:?}")))?;
    let total = at.as_nanosecond();
    let seconds = i64::try_from(total.div_euclid(SECOND));
    Ok((
        seconds.map_err(|_| Fault::new("the instant is out of range"))?,
        total.rem_euclid(SECOND) as i64,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_go_both_ways() {
        for (nanos, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5µs"),
            (2_000_000, "2ms"),
            (1_500_000_000, "1.5s"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h0m0s"),
            (-5_000_000_000, "-5s"),
            (i64::MAX, "2562047h47m16.854775807s"),
        ] {
            assert_eq!(duration(nanos), text);
            assert_eq!(nanos_of_duration(text).unwrap(), nanos, "{text}");
        }
        for bad in ["5", "s", "1x", "-", "1.2.3s", ".s", "9999999999999999999s", "9999999999h"] {
            assert!(nanos_of_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn instants_are_cut() {
        assert_eq!(instant(0, 999_999_999, 0).unwrap(), "1970-01-01T00:00:00Z");
        assert_eq!(instant(0, 1_999, 6).unwrap(), "1970-01-01T00:00:00.000001Z");
        assert_eq!(parts_of_instant("1969-12-31T23:59:59.5Z").unwrap(), (-1, 500_000_000));
        assert!(instant(i64::MAX, 0, 0).is_err());
    }
}
