//! Reads the table's text. The form is described in `api/schema/generate.py`.

use std::collections::HashMap;

use super::{Enum, Field, ListType, PatchStrategy, Proto, Schema, Shape, Type, TypeId, Wire};

pub(super) fn parse(text: &str) -> Result<Schema, String> {
    let lines = || text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let mut names = Names::default();
    let mut enums = Vec::new();
    for line in lines() {
        if let Some(line) = line.strip_prefix('@') {
            let (name, values) = line.split_once(' ').unwrap_or((line, ""));
            names.enums.insert(name, enums.len() as u32);
            enums.push(Enum {
                name: name.into(),
                values: values.split('|').filter(|v| !v.is_empty()).map(Into::into).collect(),
            });
        } else if let Some(line) = line.strip_prefix('=') {
            let id = TypeId(names.types.len() as u32);
            names.types.insert(line.split(' ').next().unwrap_or_default(), id);
        }
    }
    let mut types: Vec<Type> = Vec::with_capacity(names.types.len());
    let mut fields = Vec::new();
    for line in lines().filter(|line| !line.starts_with('@')) {
        if let Some(line) = line.strip_prefix('=') {
            if let Some(last) = types.last_mut() {
                last.fill(std::mem::take(&mut fields));
            }
            types.push(header(line));
        } else {
            fields.push(field(&names, line).ok_or_else(|| format!("unreadable line {line:?}"))?);
        }
    }
    if let Some(last) = types.last_mut() {
        last.fill(fields);
    }
    mark_defaults(&mut types);
    let by_name = names.types.iter().map(|(name, id)| ((*name).into(), *id)).collect();
    Ok(Schema { types, by_name, enums })
}

#[derive(Default)]
struct Names<'a> {
    types: HashMap<&'a str, TypeId>,
    enums: HashMap<&'a str, u32>,
}

impl Type {
    fn fill(&mut self, fields: Vec<Field>) {
        let mut order: Vec<_> = (0u16..)
            .zip(&fields)
            .filter_map(|(at, field)| Some((field.proto?.path(), at)))
            .collect();
        order.sort_unstable();
        self.wire_order = order.into_iter().map(|(_, at)| at).collect();
        self.fields = fields.into();
    }
}

fn header(line: &str) -> Type {
    let mut words = line.split(' ');
    let mut header = Type {
        name: words.next().unwrap_or_default().into(),
        atomic: false,
        is_kind: false,
        cluster_scoped: false,
        fields: Box::default(),
        wire_order: Box::default(),
        has_defaults: false,
    };
    for word in words {
        match word {
            "atomic" => header.atomic = true,
            "kind" => header.is_kind = true,
            "cluster" => header.cluster_scoped = true,
            _ => {}
        }
    }
    header
}

fn field(names: &Names<'_>, line: &str) -> Option<Field> {
    let mut words = line.splitn(4, ' ');
    let name = words.next()?.into();
    let shape = shape(names, words.next()?)?;
    let proto = words.next()?;
    let mut field = Field {
        name,
        shape,
        optional: false,
        omit_empty: false,
        pointer: false,
        list_type: ListType::Atomic,
        atomic: None,
        patch: PatchStrategy::default(),
        default: None,
        proto: self::proto(proto),
    };
    let mut rest = words.next().unwrap_or_default();
    while !rest.is_empty() {
        if let Some(json) = rest.strip_prefix('d') {
            field.default = Some(serde_json::from_str(json).ok()?);
            break;
        }
        let (word, more) = rest.split_once(' ').unwrap_or((rest, ""));
        flag(&mut field, word)?;
        rest = more;
    }
    Some(field)
}

fn flag(field: &mut Field, word: &str) -> Option<()> {
    match word {
        "la" => field.list_type = ListType::Atomic,
        "ls" => field.list_type = ListType::Set,
        "ma" => field.atomic = Some(true),
        "mg" => field.atomic = Some(false),
        "sm" => field.patch.merge = true,
        "sx" => field.patch.replace = true,
        "sk" => field.patch.retain_keys = true,
        _ => {
            if let Some(keys) = word.strip_prefix("lm:") {
                field.list_type = ListType::Map(keys.split(',').map(Into::into).collect());
            } else if let Some(key) = word.strip_prefix("sm:") {
                field.patch.merge = true;
                field.patch.merge_key = Some(key.into());
            } else {
                for letter in word.chars() {
                    match letter {
                        '?' => field.optional = true,
                        'o' => field.omit_empty = true,
                        'p' => field.pointer = true,
                        'r' => field.proto.as_mut()?.repeated = true,
                        _ => return None,
                    }
                }
            }
        }
    }
    Some(())
}

fn proto(word: &str) -> Option<Proto> {
    let wire = match word.chars().last()? {
        'b' => Wire::Bytes,
        'v' => Wire::Varint,
        'f' => Wire::Fixed64,
        _ => return None,
    };
    let numbers = word.get(..word.len() - 1)?;
    let mut within = [0; 2];
    let mut way = numbers.split('.').rev();
    let number = way.next()?.parse().ok()?;
    let outer: Vec<&str> = way.collect();
    for (place, outer) in within.iter_mut().zip(outer.iter().rev()) {
        *place = outer.parse().ok()?;
    }
    if outer.len() > within.len() {
        return None;
    }
    Some(Proto { number, within, wire, repeated: false })
}

fn shape(names: &Names<'_>, word: &str) -> Option<Shape> {
    if let Some(item) = word.strip_prefix("[]") {
        return Some(Shape::List(Box::new(shape(names, item)?)));
    }
    if let Some(item) = word.strip_prefix("{}") {
        return Some(Shape::Map(Box::new(shape(names, item)?)));
    }
    Some(match word {
        "s" => Shape::String,
        "i32" => Shape::Int32,
        "i64" => Shape::Int64,
        "f64" => Shape::Float,
        "b" => Shape::Bool,
        "y" => Shape::Bytes,
        "q" => Shape::Quantity,
        "n" => Shape::IntOrString,
        "t" => Shape::Time,
        "u" => Shape::MicroTime,
        "D" => Shape::Duration,
        "F" => Shape::Fields,
        "*" => Shape::Any,
        _ => match word.strip_prefix("s@") {
            Some(name) => Shape::Enum(*names.enums.get(name)?),
            None => Shape::Object(*names.types.get(word)?),
        },
    })
}

/// Types refer to each other in circles, so the marks spread until nothing changes (three or four rounds).
fn mark_defaults(types: &mut [Type]) {
    fn below(shape: &Shape) -> Option<TypeId> {
        match shape {
            Shape::Object(id) => Some(*id),
            Shape::List(item) | Shape::Map(item) => below(item),
            _ => None,
        }
    }
    loop {
        let mut changed = false;
        for at in 0..types.len() {
            if types[at].has_defaults {
                continue;
            }
            let marked = types[at].fields.iter().any(|field| {
                super::defaults::written_default(field).is_some()
                    || below(&field.shape).is_some_and(|id| types[id.0 as usize].has_defaults)
            });
            types[at].has_defaults = marked;
            changed |= marked;
        }
        if !changed {
            return;
        }
    }
}
