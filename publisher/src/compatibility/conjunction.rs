//! Schemas that must all hold at one place, seen as one: references followed, `allOf` taken apart.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use jsonschema::Draft;
use serde_json::Value;

use crate::contracts_document::schema_index::{Meaning, SchemaIndex, SchemaNode};
use crate::contracts_document::subschemas::is_schema;

/// Most schemas of one conjunction.
const PARTS: usize = 256;
/// Keywords that allow and forbid nothing themselves.
const SILENT: [&str; 22] = [
    "$anchor",
    "$comment",
    "$defs",
    "$dynamicAnchor",
    "$dynamicRef",
    "$id",
    "$recursiveAnchor",
    "$recursiveRef",
    "$ref",
    "$schema",
    "$vocabulary",
    "allOf",
    "default",
    "definitions",
    "deprecated",
    "description",
    "example",
    "examples",
    "id",
    "readOnly",
    "title",
    "writeOnly",
];
/// Every type; an integer is a number.
const TYPES: [&str; 6] = ["array", "boolean", "null", "number", "object", "string"];

/// The schemas that hold together at a place. None at all: anything is allowed.
#[derive(Debug, Clone, Default)]
pub(super) struct Conjunction<'a> {
    parts: Vec<SchemaNode<'a>>,
    /// Whether one of them is `false`.
    pub(super) impossible: bool,
    /// Whether there are more than can be looked at.
    pub(super) too_many: bool,
}

impl<'a> Conjunction<'a> {
    /// What these schemas say together.
    pub(super) fn new(index: &SchemaIndex<'a>, schemas: impl IntoIterator<Item = SchemaNode<'a>>) -> Self {
        let mut conjunction = Self::default();
        let mut seen = HashSet::new();
        let mut waiting: Vec<SchemaNode<'a>> = schemas.into_iter().collect();
        waiting.reverse();
        while let Some(node) = waiting.pop() {
            if !seen.insert(std::ptr::from_ref(node.value)) {
                continue;
            }
            if seen.len() > PARTS {
                conjunction.too_many = true;
                break;
            }
            if node.value == &Value::Bool(false) {
                conjunction.impossible = true;
            }
            let Value::Object(keywords) = node.value else { continue };
            for keyword in ["$ref", "$dynamicRef", "$recursiveRef"] {
                let reference = keywords.get(keyword).and_then(Value::as_str);
                if let Some(Ok(Meaning::Schema { node, .. })) = reference.map(|text| index.resolve(node, text)) {
                    waiting.push(node);
                }
            }
            // In the older dialects nothing beside a reference counts.
            if keywords.contains_key("$ref") && index.draft(node) < Draft::Draft201909 {
                continue;
            }
            if let Some(Value::Array(all)) = keywords.get("allOf") {
                waiting.extend(all.iter().rev().take(PARTS).map(|value| index.child(node, value)));
                conjunction.too_many |= all.len() > PARTS;
            }
            if keywords.keys().any(|keyword| !SILENT.contains(&keyword.as_str())) {
                conjunction.parts.push(node);
            }
        }
        conjunction
    }

    /// What tells it from others.
    pub(super) fn key(&self) -> Vec<*const Value> {
        let mut key: Vec<*const Value> = self.parts.iter().map(|node| std::ptr::from_ref(node.value)).collect();
        key.sort();
        key.push(if self.impossible { std::ptr::from_ref(&Value::Null) } else { std::ptr::null() });
        key
    }

    /// The schemas it is made of.
    pub(super) fn nodes(&self) -> Vec<SchemaNode<'a>> {
        self.parts.clone()
    }

    /// The values of a keyword, with the schemas they stand in.
    pub(super) fn values(&self, keyword: &str) -> impl Iterator<Item = (SchemaNode<'a>, &'a Value)> {
        self.parts.iter().filter_map(move |node| Some((*node, node.value.get(keyword)?)))
    }

    /// The schemas that a keyword holds.
    pub(super) fn children(&self, index: &SchemaIndex<'a>, keyword: &str) -> Vec<SchemaNode<'a>> {
        let schemas = self.values(keyword).filter(|(_, value)| is_schema(value));
        schemas.map(|(node, value)| index.child(node, value)).collect()
    }

    /// The schemas that a keyword holds by name.
    pub(super) fn children_by_name(
        &self,
        index: &SchemaIndex<'a>,
        keyword: &str,
    ) -> BTreeMap<&'a str, Vec<SchemaNode<'a>>> {
        let mut children: BTreeMap<&str, Vec<SchemaNode<'a>>> = BTreeMap::new();
        for (node, value) in self.values(keyword) {
            for (name, value) in value.as_object().into_iter().flatten().filter(|(_, value)| is_schema(value)) {
                children.entry(name).or_default().push(index.child(node, value));
            }
        }
        children
    }

    /// The lists of schemas that a keyword holds.
    pub(super) fn groups(&self, index: &SchemaIndex<'a>, keyword: &str) -> Vec<Vec<SchemaNode<'a>>> {
        let lists = self.values(keyword).filter_map(|(node, value)| Some((node, value.as_array()?)));
        lists.map(|(node, list)| list.iter().map(|value| index.child(node, value)).collect()).collect()
    }

    /// The schemas for the item at a position of a list.
    pub(super) fn items(&self, index: &SchemaIndex<'a>, position: usize) -> Vec<SchemaNode<'a>> {
        let mut schemas = Vec::new();
        for node in &self.parts {
            let list = [node.value.get("prefixItems"), node.value.get("items")];
            let list = list.into_iter().flatten().find_map(Value::as_array);
            let rest = [node.value.get("items"), node.value.get("additionalItems")];
            let rest = rest.into_iter().flatten().find(|value| is_schema(value));
            // Without a list, `additionalItems` means nothing.
            let rest = rest.filter(|_| list.is_some() || node.value.get("items").is_some());
            let schema = list.and_then(|list| list.get(position)).or(rest);
            schemas.extend(schema.map(|value| index.child(*node, value)));
        }
        schemas
    }

    /// Positions of a list that have schemas of their own.
    pub(super) fn positions(&self) -> usize {
        let lists = self.values("prefixItems").chain(self.values("items")).filter_map(|(_, value)| value.as_array());
        lists.map(Vec::len).max().unwrap_or(0)
    }

    /// The types that are allowed; `None`: all of them.
    pub(super) fn types(&self) -> Option<BTreeSet<&'a str>> {
        let mut allowed: Option<BTreeSet<&str>> = None;
        for (_, value) in self.values("type") {
            let list = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
            let types: BTreeSet<&str> = list.iter().filter_map(Value::as_str).collect();
            allowed = Some(match allowed {
                None => types,
                Some(earlier) => both(&earlier, &types),
            });
        }
        allowed
    }

    /// The values that are allowed; `None`: not listed.
    pub(super) fn listed(&self) -> Option<Vec<&'a Value>> {
        let lists = self.values("enum").filter_map(|(_, value)| Some(value.as_array()?.iter().collect::<Vec<_>>()));
        let single = self.values("const").map(|(_, value)| vec![value]);
        lists.chain(single).reduce(|earlier, list| {
            let list = ValueSet::new(&list);
            earlier.into_iter().filter(|value| list.contains(value)).collect()
        })
    }

    /// The properties that must be there.
    pub(super) fn required(&self) -> BTreeSet<&'a str> {
        let lists = self.values("required").filter_map(|(_, value)| value.as_array());
        lists.flatten().filter_map(Value::as_str).collect()
    }
}

/// Types that two lists allow.
fn both<'a>(one: &BTreeSet<&'a str>, other: &BTreeSet<&'a str>) -> BTreeSet<&'a str> {
    let allowed = |types: &BTreeSet<&'a str>, name: &str| allows(types, name);
    one.iter()
        .filter(|name| allowed(other, name))
        .chain(other.iter().filter(|name| allowed(one, name)))
        .copied()
        .collect()
}

/// Whether a type is among those allowed; an integer is a number.
pub(super) fn allows(types: &BTreeSet<&str>, name: &str) -> bool {
    types.contains(name) || (name == "integer" && types.contains("number"))
}

/// Every type there is.
pub(super) fn all_types<'a>() -> BTreeSet<&'a str> {
    TYPES.into_iter().collect()
}

/// The type of a value.
pub(super) fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.as_f64().is_some_and(|number| number.fract() == 0.0) => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Values to be looked up. Numbers are compared by what they are worth.
pub(super) struct ValueSet(HashSet<String>);

impl ValueSet {
    /// The values of a list.
    pub(super) fn new(values: &[&Value]) -> Self {
        Self(values.iter().map(|value| worth(value)).collect())
    }

    /// Whether a value is among them.
    pub(super) fn contains(&self, value: &Value) -> bool {
        self.0.contains(&worth(value))
    }
}

/// The same text for the same value: `1` and `1.0` are one.
fn worth(value: &Value) -> String {
    match value.as_f64() {
        Some(number) if number.fract() == 0.0 && number.abs() < 9e15 => format!("{number:.0}"),
        Some(_) | None => value.to_string(),
    }
}
