//! Kubernetes' `resource.Quantity`: amounts of cpu, memory and the like, exact, in one canonical spelling.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde_json::Value;

/// An amount, exact to 10⁻⁹ and capped at ±(2⁶³-1), as Kubernetes has it; finer amounts are rounded away from zero.
///
/// Ordered and compared by amount: `1` and `1000m` are equal. [`fmt::Display`] gives the canonical form.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// Which suffixes the canonical form uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `k`, `M`, `m`
    DecimalSi,
    /// `Ki`, `Mi`
    BinarySi,
    /// `e3`
    DecimalExponent,
}

/// Why a text is no quantity, in Kubernetes' words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    #[error(
        "quantities must match the regular expression \
         '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    )]
    Format,
    #[error("unable to parse numeric part of quantity")]
    Number,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

const NANOS: i128 = 1_000_000_000;
const MAX_NANOS: i128 = (i64::MAX as i128) * NANOS;

impl Quantity {
    pub const ZERO: Quantity = Quantity { nanos: 0, format: Format::DecimalSi };

    /// A plain number, like cores or pods.
    pub fn from_value(value: i64) -> Self {
        Self { nanos: i128::from(value) * NANOS, format: Format::DecimalSi }
    }

    /// Thousandths, like `250m` of a core.
    pub fn from_millis(millis: i64) -> Self {
        Self { nanos: i128::from(millis) * (NANOS / 1000), format: Format::DecimalSi }
    }

    /// Bytes, spelled with `Ki`, `Mi`, ….
    pub fn from_bytes(bytes: i64) -> Self {
        Self { nanos: i128::from(bytes) * NANOS, format: Format::BinarySi }
    }

    /// From a string or a whole or fractional number, the two forms that Kubernetes accepts in JSON.
    pub fn from_json(value: &Value) -> Result<Self, QuantityError> {
        match value {
            Value::String(text) => text.parse(),
            Value::Number(number) => number.to_string().parse(),
            _ => Err(QuantityError::Format),
        }
    }

    /// The amount rounded away from zero to a whole number; bytes, cores, pods.
    pub fn value(self) -> i64 {
        self.scaled(NANOS)
    }

    /// The amount in thousandths, rounded away from zero, capped at the bounds of `i64`.
    pub fn millis(self) -> i64 {
        self.scaled(NANOS / 1000)
    }

    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// Whether the amount is a whole number.
    pub fn is_whole(self) -> bool {
        self.nanos % NANOS == 0
    }

    /// Capped at ±(2⁶³-1). The format is the left one's unless that is zero.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nanos: cap(self.nanos + other.nanos), format }
    }

    /// Capped like [`Quantity::plus`].
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nanos: cap(self.nanos - other.nanos), format }
    }

    fn scaled(self, unit: i128) -> i64 {
        let rest = self.nanos % unit;
        let whole = self.nanos / unit + rest.signum();
        i64::try_from(whole).unwrap_or(if whole < 0 { i64::MIN } else { i64::MAX })
    }
}

/// The canonical spelling of a quantity in JSON: `"1000m"` becomes `"1"`.
pub fn canonicalize(value: &Value) -> Result<String, QuantityError> {
    Quantity::from_json(value).map(|quantity| quantity.to_string())
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl std::iter::Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(quantities: I) -> Self {
        quantities.fold(Quantity::ZERO, Quantity::plus)
    }
}

/// The largest suffix that leaves a whole number.
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let is_binary = self.format == Format::BinarySi
            && self.nanos.abs() >= 1024 * NANOS
            && self.nanos % NANOS == 0;
        if is_binary {
            let (mut number, mut step) = (self.nanos / NANOS, 0);
            while number % 1024 == 0 && step + 1 < BINARY.len() {
                number /= 1024;
                step += 1;
            }
            return write!(f, "{number}{}", BINARY[step]);
        }
        let (mut number, mut step) = (self.nanos, 0);
        while number % 1000 == 0 && step + 1 < DECIMAL.len() {
            number /= 1000;
            step += 1;
        }
        let exponent = 3 * step as i32 - 9;
        match self.format {
            Format::DecimalExponent if exponent == 0 => write!(f, "{number}"),
            Format::DecimalExponent => write!(f, "{number}e{exponent}"),
            _ => write!(f, "{number}{}", DECIMAL[step]),
        }
    }
}

const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let (is_negative, unsigned) = match text.as_bytes().first() {
            None => return Err(QuantityError::Format),
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            Some(_) => (false, text),
        };
        let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.');
        let (number, suffix) = unsigned.split_at(end.unwrap_or(unsigned.len()));
        if number.is_empty() || !is_suffix_form(suffix) {
            return Err(QuantityError::Format);
        }
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return Err(QuantityError::Number);
        }
        let (power2, power10, format) = interpret(suffix)?;

        let mut digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).map(|b| b - b'0').collect();
        for _ in 0..power2 {
            double(&mut digits);
        }
        let nanos = shift(&digits, i64::from(power10) - fraction.len() as i64 + 9);
        let nanos = if is_negative { -nanos } else { nanos };
        // Below one there are no binary suffixes.
        let format = if format == Format::BinarySi && nanos.abs() < NANOS && nanos != 0 {
            Format::DecimalSi
        } else {
            format
        };
        Ok(Quantity { nanos, format })
    }
}

/// `[eEinumkKMGTP]*[-+]?[0-9]*`
fn is_suffix_form(suffix: &str) -> bool {
    let rest = suffix.trim_start_matches(|c: char| "eEinumkKMGTP".contains(c));
    let rest = rest.strip_prefix(['-', '+']).unwrap_or(rest);
    rest.bytes().all(|b| b.is_ascii_digit())
}

/// The powers of 2 and of 10 that a suffix stands for.
fn interpret(suffix: &str) -> Result<(u32, i32, Format), QuantityError> {
    if let Some(step) = BINARY.iter().skip(1).position(|s| *s == suffix) {
        return Ok((10 * (step as u32 + 1), 0, Format::BinarySi));
    }
    if let Some(step) = DECIMAL.iter().position(|s| *s == suffix) {
        return Ok((0, 3 * step as i32 - 9, Format::DecimalSi));
    }
    let exponent = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError::Suffix)?;
    let exponent = exponent.parse::<i32>().map_err(|_| QuantityError::Suffix)?;
    Ok((0, exponent, Format::DecimalExponent))
}

/// Twice a number of decimal digits, most significant first.
fn double(digits: &mut Vec<u8>) {
    let mut carry = 0;
    for digit in digits.iter_mut().rev() {
        let twice = *digit * 2 + carry;
        *digit = twice % 10;
        carry = twice / 10;
    }
    if carry > 0 {
        digits.insert(0, carry);
    }
}

/// digits · 10^power, rounded up and capped.
fn shift(digits: &[u8], power: i64) -> i128 {
    let digits = match digits.iter().position(|d| *d != 0) {
        None => return 0,
        Some(first) => &digits[first..],
    };
    let length = digits.len() as i64 + power;
    if length > 28 {
        // MAX_NANOS has 28 digits.
        return MAX_NANOS;
    }
    if length <= 0 {
        return 1;
    }
    let kept = digits.len().min(length as usize);
    let mut number = digits[..kept].iter().fold(0i128, |n, d| n * 10 + i128::from(*d));
    number *= 10i128.pow((length as usize - kept) as u32);
    if digits[kept..].iter().any(|d| *d != 0) {
        number += 1;
    }
    cap(number)
}

fn cap(nanos: i128) -> i128 {
    nanos.clamp(-MAX_NANOS, MAX_NANOS)
}

#[cfg(test)]
mod tests;
