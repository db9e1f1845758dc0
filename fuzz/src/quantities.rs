//! Quantities: `100m`, `1.5Gi`, `2e3`.

use serde_json::Value;
use warren_api::Quantity;
use warren_api::quantity::canonicalize;

pub(crate) fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let read = text.parse::<Quantity>();
    let canonical = canonicalize(&Value::from(text));
    assert_eq!(read.is_ok(), canonical.is_ok(), "{text:?}");
    let (Ok(quantity), Ok(canonical)) = (read, canonical) else { return };
    let again = canonicalize(&Value::from(canonical.as_str()));
    assert_eq!(again.as_deref(), Ok(&*canonical), "{text:?}: the canonical form is its own");
    assert_eq!(canonical.parse(), Ok(quantity), "{text:?} is {canonical:?}");
    // Sums are capped, and so never fall below their parts.
    let sum = quantity.plus(quantity);
    assert!(quantity.is_negative() || sum >= quantity, "{text:?}");
    assert!(quantity.minus(quantity).is_zero(), "{text:?}");
}
