//! Strings that carry a meaning: instants, quantities, base64. Each is checked and written in its one canonical form.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;

use crate::quantity::{Quantity, QuantityError};

/// RFC 3339, in UTC and with `digits` of a fraction (0 or 6), as Kubernetes writes `Time` and `MicroTime`.
pub(super) fn time(text: &str, digits: usize) -> Result<Cow<'_, str>, String> {
    let refused =
        || format!("parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse");
    if !looks_like_rfc3339(text.as_bytes()) {
        return Err(refused());
    }
    let instant: Timestamp = text.parse().map_err(|_| refused())?;
    let canonical = if digits == 0 { 20 } else { 21 + digits };
    if text.len() == canonical && text.ends_with('Z') {
        return Ok(text.into());
    }
    Ok(format!("{instant:.digits$}").into())
}

/// `2006-01-02T15:04:05[.999][Z|+07:00]`: jiff alone takes more forms than Kubernetes does.
fn looks_like_rfc3339(text: &[u8]) -> bool {
    let Some((head, tail)) = text.split_at_checked(19) else { return false };
    let shaped = head.iter().zip(b"0000-00-00T00:00:00").all(|(byte, form)| match form {
        b'0' => byte.is_ascii_digit(),
        form => byte == form,
    });
    let zone = match tail.strip_prefix(b".") {
        Some(fraction) => {
            let digits = fraction.iter().take_while(|b| b.is_ascii_digit()).count();
            if digits == 0 {
                return false;
            }
            fraction.split_at(digits).1
        }
        None => tail,
    };
    shaped
        && match zone {
            b"Z" => true,
            [b'+' | b'-', a, b, b':', c, d] => [a, b, c, d].iter().all(|b| b.is_ascii_digit()),
            _ => false,
        }
}

/// Standard base64 with padding; line breaks are left out.
pub(super) fn base64(text: &str) -> Result<Cow<'_, str>, String> {
    let text: Cow<'_, str> = if text.contains(['\r', '\n']) {
        text.replace(['\r', '\n'], "").into()
    } else {
        text.into()
    };
    match STANDARD.decode(text.as_bytes()) {
        Ok(_) => Ok(text),
        Err(
            base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _),
        ) => Err(format!("illegal base64 data at input byte {at}")),
        Err(_) => Err(format!("illegal base64 data at input byte {}", text.len())),
    }
}

/// A quantity in its canonical spelling: `1000m` is `1`.
pub(super) fn quantity(text: &str) -> Result<Cow<'_, str>, String> {
    let quantity: Quantity = text.parse().map_err(|why: QuantityError| why.to_string())?;
    Ok(quantity.to_string().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_have_one_form() {
        for (text, seconds, micros) in [
            ("2024-02-29T12:00:00Z", "2024-02-29T12:00:00Z", "2024-02-29T12:00:00.000000Z"),
            ("2024-02-29T12:00:00+02:00", "2024-02-29T10:00:00Z", "2024-02-29T10:00:00.000000Z"),
            (
                "2024-02-29T12:00:00.98765432Z",
                "2024-02-29T12:00:00Z",
                "2024-02-29T12:00:00.987654Z",
            ),
        ] {
            assert_eq!(time(text, 0).unwrap(), seconds);
            assert_eq!(time(text, 6).unwrap(), micros);
        }
        for bad in [
            "",
            "yesterday",
            "2023-02-29T12:00:00Z",
            "2024-02-29 12:00:00Z",
            "2024-02-29T12:00:00",
            "2024-02-29T12:00:00.Z",
        ] {
            assert!(time(bad, 0).is_err(), "{bad}");
        }
    }

    #[test]
    fn quantities_and_bytes_are_checked() {
        for (text, canonical) in [("+1", "1"), (".5", "500m"), ("1000m", "1"), ("1024Mi", "1Gi")] {
            assert_eq!(quantity(text).unwrap(), canonical);
        }
        for bad in ["", ".", "1.2.3", "1 Gi", "Gi", "1gi", "1e", "--1", "1e3m"] {
            assert!(quantity(bad).is_err(), "{bad}");
        }
        assert_eq!(base64("aGVs\nbG8=\n").unwrap(), "aGVsbG8=");
        assert_eq!(base64("aGV*bG8=").unwrap_err(), "illegal base64 data at input byte 3");
        assert!(base64("aGVsbG8").is_err());
    }
}
