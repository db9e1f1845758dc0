//! Objects that bytes choose: with text alone, a fuzzer seldom finds an object that has the fields of its type. Few words
//! and numbers, so that two objects have much in common; now and then a value that the type does not allow.

use serde_json::{Map, Value, json};
use warren_api::schema::{Schema, Shape, Type};

/// An input that begins with such a byte, which no text does, is read as choices.
const FIRST: u8 = 0x80;
const DEPTH: usize = 8;
const WORDS: [&str; 16] = [
    "a", "b", "c", "", "name", "TCP", "UDP", "x.y/z", "0", "80", "Always", "Delete", "None", "*",
    "A_b", "é",
];
const NUMBERS: [i64; 12] =
    [0, 1, 2, 3, 80, -1, 65_536, i32::MAX as i64, i32::MIN as i64, 1 << 53, i64::MAX, i64::MIN];
const QUANTITIES: [&str; 8] = ["0", "1", "500m", "1Gi", "1.5", "-1", "1e3", "9223372036854775807"];
const TIMES: [&str; 5] = [
    "2024-01-01T00:00:00Z",
    "2024-01-01T00:00:00.000001Z",
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59Z",
    "1969-12-31T23:59:59.5+01:00",
];
const DURATIONS: [&str; 4] = ["1m30s", "0s", "-1ns", "2562047h47m16.854775807s"];

pub(crate) struct Choices<'d>(&'d [u8]);

impl<'d> Choices<'d> {
    /// `None` of a text.
    pub(crate) fn of(data: &'d [u8]) -> Option<Self> {
        let (first, rest) = data.split_first()?;
        (*first >= FIRST).then_some(Self(rest))
    }

    /// Zeros where the input is over, so that it ends.
    fn byte(&mut self) -> usize {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        usize::from(*first)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        let high = if bound > 256 { self.byte() << 8 } else { 0 };
        (high | self.byte()) % bound.max(1)
    }

    fn of_table<T: Copy>(&mut self, table: &[T]) -> T {
        table[self.below(table.len())]
    }

    pub(crate) fn object(&mut self, schema: &Schema, of: &Type) -> Map<String, Value> {
        self.fields(schema, of, DEPTH)
    }

    fn fields(&mut self, schema: &Schema, of: &Type, depth: usize) -> Map<String, Value> {
        let mut map = Map::new();
        if depth == 0 || of.fields().is_empty() {
            return map;
        }
        for _ in 0..self.below(6) {
            if self.byte() == 255 {
                map.insert(
                    "$patch".to_owned(),
                    self.of_table(&["delete", "replace", "merge"]).into(),
                );
            }
            let field = &of.fields()[self.below(of.fields().len())];
            let value = self.value(schema, &field.shape, depth - 1);
            map.insert(field.name.to_string(), value);
        }
        map
    }

    fn value(&mut self, schema: &Schema, shape: &Shape, depth: usize) -> Value {
        if self.byte() == 255 {
            return self.of_table(&[
                || json!(null),
                || json!([null, 1]),
                || json!({"a": 1}),
                || json!("x"),
            ])();
        }
        let count = if depth == 0 { 0 } else { self.below(4) };
        match shape {
            Shape::String => self.of_table(&WORDS).into(),
            Shape::Enum(id) => {
                let values = &schema.values(*id).values;
                values[self.below(values.len())].to_string().into()
            }
            Shape::Duration => self.of_table(&DURATIONS).into(),
            Shape::Int32 | Shape::Int64 => self.of_table(&NUMBERS).into(),
            Shape::IntOrString => match self.below(2) {
                0 => self.of_table(&NUMBERS).into(),
                _ => self.of_table(&WORDS).into(),
            },
            Shape::Float => (self.of_table(&NUMBERS) as f64 / 2.0).into(),
            Shape::Bool => (self.below(2) == 0).into(),
            Shape::Bytes => self.of_table(&["", "aGk=", "AA=="]).into(),
            Shape::Quantity => self.of_table(&QUANTITIES).into(),
            Shape::Time | Shape::MicroTime => self.of_table(&TIMES).into(),
            Shape::Fields => json!({"f:metadata": {"f:labels": {".": {}, "f:a": {}}}}),
            Shape::Any => json!({self.of_table(&WORDS): self.of_table(&NUMBERS)}),
            Shape::List(item) => (0..count).map(|_| self.value(schema, item, depth - 1)).collect(),
            Shape::Map(item) => (0..count)
                .map(|_| (self.of_table(&WORDS).to_owned(), self.value(schema, item, depth - 1)))
                .collect(),
            Shape::Object(id) => self.fields(schema, schema.get(*id), depth).into(),
        }
    }
}
