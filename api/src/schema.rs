//! The table of types: what fields a type has, and how they are merged, owned and defaulted.
//!
//! One table serves decoding, defaults, strategic merge, server-side apply and OpenAPI. The built-in one is a text
//! file (`api/schema/types.txt`, written by `generate.py` beside it) that is read once, on first use.

mod decode;
mod defaults;
#[cfg(test)]
pub(crate) mod random;
mod scalar;
mod table;

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::Value;

pub(crate) use decode::Check;
pub use decode::{
    DecodeError, FieldValidation, MAX_OBJECT_BYTES, decode, decode_keeping_zeros, decode_slice,
};
pub use defaults::apply_defaults;

/// The place of a type in its [`Schema`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypeId(u32);

/// A closed set of types.
#[derive(Debug, Default)]
pub struct Schema {
    types: Vec<Type>,
    by_name: HashMap<Box<str>, TypeId>,
    enums: Vec<Enum>,
}

/// A named string type with its known values.
#[derive(Debug)]
pub struct Enum {
    /// `core/v1.Protocol`
    pub name: Box<str>,
    pub values: Box<[Box<str>]>,
}

/// A type with fields.
#[derive(Debug)]
pub struct Type {
    /// `core/v1.ContainerPort`
    pub name: Box<str>,
    /// Server-side apply owns it as a whole (`structType=atomic`).
    pub atomic: bool,
    /// It is the type of a kind, not of a part of one.
    pub is_kind: bool,
    pub cluster_scoped: bool,
    /// Sorted by name.
    fields: Box<[Field]>,
    /// The fields that are in protobuf, by [`Proto::path`].
    wire_order: Box<[u16]>,
    /// It or a type below it has a field with a default that must be written.
    has_defaults: bool,
}

/// What a value may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    String,
    /// A string with known values; see [`Schema::values`]. The list is for people: decoding takes any string.
    Enum(u32),
    Int32,
    Int64,
    Float,
    Bool,
    /// Base64 in a string.
    Bytes,
    /// A string (numbers are taken as well), kept in canonical form.
    Quantity,
    IntOrString,
    /// RFC 3339 in UTC with seconds.
    Time,
    /// RFC 3339 in UTC with microseconds.
    MicroTime,
    /// As Go writes one: `1m30s`.
    Duration,
    /// The fields that a manager owns.
    Fields,
    /// Anything, kept as it is (`RawExtension`, JSON schemas).
    Any,
    Object(TypeId),
    List(Box<Shape>),
    Map(Box<Shape>),
}

/// How server-side apply sees a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListType {
    /// One manager owns all of it. What lists are unless the table says otherwise.
    #[default]
    Atomic,
    /// Each value has its owners.
    Set,
    /// Each item, found by these keys, has its owners.
    Map(Box<[Box<str>]>),
}

/// How a strategic merge patch treats a field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PatchStrategy {
    /// Lists are merged instead of replaced; of scalars, or of objects by the merge key.
    pub merge: bool,
    pub merge_key: Option<Box<str>>,
    /// Objects are replaced instead of merged.
    pub replace: bool,
    /// A patch may name the keys that stay (`$retainKeys`).
    pub retain_keys: bool,
}

/// Where the field is in the protobuf encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proto {
    pub number: u32,
    /// The numbers of the embedded messages around the field, outermost first, where the JSON form inlines them; then
    /// zeros.
    pub within: [u32; 2],
    pub wire: Wire,
    pub repeated: bool,
}

impl Proto {
    /// The numbers on the way to the field, its own last; then zeros.
    pub fn path(self) -> [u32; 3] {
        match self.within {
            [0, _] => [self.number, 0, 0],
            [outer, 0] => [outer, self.number, 0],
            [outer, inner] => [outer, inner, self.number],
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    Bytes,
    Varint,
    Fixed64,
}

#[derive(Debug)]
pub struct Field {
    /// The name in JSON.
    pub name: Box<str>,
    pub shape: Shape,
    pub optional: bool,
    /// Not written when it is zero or empty.
    pub omit_empty: bool,
    /// Absent and zero are not the same.
    pub pointer: bool,
    pub list_type: ListType,
    /// For maps and objects: one manager owns all of it. `None` leaves it to the type (maps: no).
    pub atomic: Option<bool>,
    pub patch: PatchStrategy,
    pub default: Option<Value>,
    pub proto: Option<Proto>,
}

impl Field {
    pub fn is_required(&self) -> bool {
        !self.optional && !self.omit_empty
    }

    /// Whether such a value is as good as absent: it is not written.
    pub(crate) fn leaves_out(&self, value: &Value) -> bool {
        // An embedded struct, an instant or a quantity is no zero to Go's encoder.
        let can_be_empty = !matches!(
            self.shape,
            Shape::Object(_)
                | Shape::Quantity
                | Shape::IntOrString
                | Shape::Time
                | Shape::MicroTime
                | Shape::Any
        );
        self.omit_empty && !self.pointer && can_be_empty && defaults::is_zero(value)
    }
}

impl Type {
    /// All fields, sorted by name, those of inlined types among them.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    pub fn field(&self, name: &str) -> Option<&Field> {
        let at = self.fields.binary_search_by(|field| (*field.name).cmp(name)).ok()?;
        self.fields.get(at)
    }

    /// The fields that are in protobuf, in the order of their numbers, for [`Type::place`].
    pub(crate) fn in_wire_order(&self) -> &[u16] {
        &self.wire_order
    }

    pub(crate) fn place(&self, at: u16) -> &Field {
        &self.fields[usize::from(at)]
    }

    /// The field at the end of a way of protobuf numbers.
    pub(crate) fn field_at(&self, way: &[u32]) -> Option<&Field> {
        let mut path = [0; 3];
        path.get_mut(..way.len())?.copy_from_slice(way);
        let key = |at: &u16| self.place(*at).proto.map_or([0; 3], Proto::path);
        let at = self.wire_order.binary_search_by_key(&path, key).ok()?;
        Some(self.place(self.wire_order[at]))
    }

    /// Whether a way of protobuf numbers leads to a message whose fields are inlined here.
    pub(crate) fn embeds(&self, way: &[u32]) -> bool {
        way.len() < 3
            && self.fields.iter().filter_map(|field| field.proto).any(|proto| {
                let path = proto.path();
                path.starts_with(way) && path[way.len()] != 0
            })
    }

    /// `Container` of `core/v1.Container`
    pub fn short_name(&self) -> &str {
        self.name.rsplit_once('.').map_or(&self.name, |(_, name)| name)
    }
}

impl Schema {
    /// By name: `core/v1.Pod`.
    pub fn find(&self, name: &str) -> Option<TypeId> {
        self.by_name.get(name).copied()
    }

    /// By name: `core/v1.Pod`.
    pub fn named(&self, name: &str) -> Option<&Type> {
        self.find(name).map(|id| self.get(id))
    }

    pub fn get(&self, id: TypeId) -> &Type {
        &self.types[id.0 as usize]
    }

    /// All types, sorted by name.
    pub fn types(&self) -> &[Type] {
        &self.types
    }

    /// The known values of a [`Shape::Enum`].
    pub fn values(&self, id: u32) -> &Enum {
        &self.enums[id as usize]
    }

    /// The type of an object, through lists and maps.
    pub fn type_below<'a>(&'a self, shape: &Shape) -> Option<&'a Type> {
        match shape {
            Shape::Object(id) => Some(self.get(*id)),
            Shape::List(item) | Shape::Map(item) => self.type_below(item),
            _ => None,
        }
    }
}

/// All stable types of Kubernetes v1.34. The first call reads the table (about a millisecond).
pub fn builtin() -> &'static Schema {
    static BUILTIN: LazyLock<Schema> = LazyLock::new(|| {
        match table::parse(include_str!("../schema/types.txt")) {
            Ok(schema) => schema,
            // The file is compiled in and read by a test.
            Err(error) => unreachable!("types.txt: {error}"),
        }
    });
    &BUILTIN
}

#[cfg(test)]
mod tests;
