use proptest::prelude::*;
use serde_json::json;

use super::*;

#[test]
fn canonical_forms() {
    for (text, canonical) in [
        ("0", "0"),
        ("-0", "0"),
        ("0Gi", "0"),
        ("1", "1"),
        ("+1", "1"),
        ("1.", "1"),
        (".5", "500m"),
        ("1000m", "1"),
        ("1500m", "1500m"),
        ("1.5", "1500m"),
        ("0.001", "1m"),
        ("100000", "100k"),
        ("123456", "123456"),
        ("1000k", "1M"),
        ("1024", "1024"),
        ("1Ki", "1Ki"),
        ("1024Ki", "1Mi"),
        ("1.5Gi", "1536Mi"),
        ("0.5Gi", "512Mi"),
        ("0.5Ki", "512"),
        ("1023Mi", "1023Mi"),
        ("0.1Ki", "102400m"),
        ("0.0001Ki", "102400u"),
        ("1.1Mi", "1153433600m"),
        ("-1Gi", "-1Gi"),
        ("-1500m", "-1500m"),
        ("12e6", "12e6"),
        ("1e3", "1e3"),
        ("1E3", "1e3"),
        ("1e0", "1"),
        ("10e5", "1e6"),
        ("1e-3", "1e-3"),
        ("2E", "2E"),
        ("1n", "1n"),
        ("0.1n", "1n"),
        ("1.0000000001", "1000000001n"),
        ("9223372036854775807", "9223372036854775807"),
        ("9223372036854775808", "9223372036854775807"),
        ("10E", "9223372036854775807"),
        ("8Ei", "9223372036854775807"),
        ("1e1000000", "9223372036854775807e0"),
        ("1e-1000000", "1e-9"),
        ("000000000000000000000000000000000000000000000001", "1"),
    ] {
        let canonical = canonical.trim_end_matches("e0");
        assert_eq!(text.parse::<Quantity>().unwrap().to_string(), canonical, "{text}");
    }
    assert_eq!(canonicalize(&json!(2)).unwrap(), "2");
    assert_eq!(canonicalize(&json!(0.5)).unwrap(), "500m");
    assert_eq!(canonicalize(&json!(true)), Err(QuantityError::Format));
}

#[test]
fn what_is_no_quantity() {
    for (text, error) in [
        ("", QuantityError::Format),
        ("-", QuantityError::Format),
        ("abc", QuantityError::Format),
        ("1 ", QuantityError::Format),
        ("1GB", QuantityError::Format),
        ("--1", QuantityError::Format),
        ("1e3x", QuantityError::Format),
        ("1ä", QuantityError::Format),
        ("1..2", QuantityError::Number),
        (".", QuantityError::Number),
        ("1K", QuantityError::Suffix),
        ("1mi", QuantityError::Suffix),
        ("1e", QuantityError::Suffix),
        ("1m5", QuantityError::Suffix),
        ("1-5", QuantityError::Suffix),
        ("1e99999999999", QuantityError::Suffix),
    ] {
        assert_eq!(text.parse::<Quantity>(), Err(error), "{text}");
    }
}

#[test]
fn amounts() {
    let q = |text: &str| text.parse::<Quantity>().unwrap();
    assert_eq!(q("1"), q("1000m"));
    assert!(q("1Gi") > q("1G"));
    assert_eq!((q("1500m").value(), q("1500m").millis()), (2, 1500));
    assert_eq!((q("-1500m").value(), q("1n").value()), (-2, 1));
    assert_eq!(q("8Ei").millis(), i64::MAX);
    assert_eq!(q("0").plus(q("1Gi")).to_string(), "1Gi");
    assert_eq!(q("1Gi").plus(q("1024Mi")).to_string(), "2Gi");
    assert_eq!(q("1").minus(q("250m")).to_string(), "750m");
    assert_eq!(q("8Ei").plus(q("8Ei")), q("8Ei"));
}

proptest! {
    #[test]
    fn never_panics(text in "[-+]?[0-9.]{0,40}[eEinumkKMGTP]{0,3}[-+]?[0-9]{0,12}") {
        if let Ok(quantity) = text.parse::<Quantity>() {
            let canonical = quantity.to_string();
            let again: Quantity = canonical.parse().unwrap();
            prop_assert_eq!(again, quantity);
            prop_assert_eq!(again.to_string(), canonical);
        }
    }

    #[test]
    fn sums_are_exact(a in -1_000_000_000_000i64..1_000_000_000_000, b in -1_000_000_000_000i64..1_000_000_000_000) {
        let sum = Quantity::from_millis(a).plus(Quantity::from_millis(b));
        prop_assert_eq!(sum, Quantity::from_millis(a + b));
        prop_assert_eq!(sum.minus(Quantity::from_millis(b)).millis(), a);
    }
}
